"""The command line over a real database, without any other process: `call` runs a command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.store import agent as agents
from bootpoint_common.store.database import Database
from bootpoint_common.store.role import Role
from bootpoint_ops.cli import main
from tests.service.postgres import url_as

Call = Callable[..., Result]

JOB = """
name = "erp"
{top}
[source]
agent = "src"
{source}
[[target]]
host = "h1"
{target}
"""


@pytest.fixture
def env(database: str, tmp_path: Path) -> dict[str, str]:
    """Where commands find an installation of the test's own, under the rights that people have in the database."""
    return {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": url_as(database, Role.CONSOLE),
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "COLUMNS": "80",
    }


@pytest.fixture
def call(env: dict[str, str], database: str) -> Call:
    """Run a command in an installation that has nothing yet."""

    def invoke(*words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, words, env=env, input=stdin)

    owner = env | {"BOOTPOINT_DATABASE_URL": database}
    assert CliRunner().invoke(main, ["db", "migrate"], env=owner).exit_code == 0
    return invoke


@pytest.fixture
def site(call: Call, database: str, tmp_path: Path) -> Call:
    """Run a command in an installation with one host, `h1`, and one agent, `src`."""
    pool = Database(database, size=1)
    vault = Vault(load_or_create_installation_key(tmp_path / "key"))
    with pool.transaction() as connection:
        agents.enroll(connection, "src", "kvm", vault.encrypt(agents.join_purpose("src"), b"s" * 32))
    pool.close()
    assert call("host", "add", "h1", "--kind", "fake", "--address", "h1", "--timeout", "0").exit_code == 0
    return call


def job_file(folder: Path, name: str = "job.toml", *, top: str = "", source: str = "", target: str = "") -> str:
    """Write the file of a job `erp`, with some more lines; returns its path."""
    path = folder / name
    path.write_text(JOB.format(top=top, source=source, target=target))
    return str(path)


def error_of(result: Result) -> dict[str, Any]:
    """Return the error that a command with ``-o json`` wrote."""
    found: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])
    return found


def answer_of(result: Result) -> dict[str, Any]:
    """Return what a command with ``-o json`` answered."""
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found
