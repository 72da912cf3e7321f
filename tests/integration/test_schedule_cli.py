"""Schedules and pauses on the command line, and every command of docs/schedules.md."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from bootpoint_common.store import agent as agents
from bootpoint_common.store.database import Database
from bootpoint_ops.cli import main

Call = Callable[..., Result]

PAGE = Path(__file__).parents[2] / "docs/schedules.md"

JOB = """
name = "erp-db"
time_zone = "Europe/Rome"
{top}
[source]
agent = "erp-db"
[[target]]
host = "kvm1"
[[schedule]]
weekly = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
every = "1h"
"""


@pytest.fixture
def call(database: str, tmp_path: Path) -> Call:
    """The command line of an installation with a host, an agent and a job that runs every hour."""
    environment = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "COLUMNS": "80",
    }

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(main, words, env=environment)

    assert invoke("db", "migrate").exit_code == 0
    pool = Database(database, size=1)
    with pool.transaction() as connection:
        agents.enroll(connection, "erp-db", "kvm", b"")
    pool.close()
    assert invoke("host", "add", "kvm1", "--kind", "fake", "--address", "h1", "--timeout", "0").exit_code == 0
    apply(invoke, tmp_path)
    return invoke


def apply(invoke: Call, folder: Path, top: str = "") -> Any:
    path = folder / "job.toml"
    path.write_text(JOB.format(top=top))
    return answer(invoke("job", "apply", str(path), "--timeout", "0", "-o", "json"))


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def next_run(call: Call) -> str | None:
    at: str | None = answer(call("job", "show", "erp-db", "-o", "json"))["next_run_at"]
    return at


def test_an_applied_job_says_when_it_runs_next(call: Call, tmp_path: Path) -> None:
    at = next_run(call)
    assert at is not None
    assert at.endswith(":00:00Z")
    apply(call, tmp_path, top="enabled = false")
    assert next_run(call) is None
    apply(call, tmp_path)
    assert next_run(call) == at
    assert re.search(r"^ *\d+ +erp-db .* \d{4}-\d\d-\d\d \d\d:\d\d ", call("job", "list").stdout, re.MULTILINE)


def test_a_pause_is_shown_and_ended(call: Call) -> None:
    before = next_run(call)
    paused = answer(call("job", "pause", "erp-db", "--until", "2099-01-01", "--reason", "new disks", "-o", "json"))
    assert (paused["state"], paused["state_reason"]) == ("paused", "new disks")
    assert paused["next_run_at"] == "2099-01-01T00:00:00Z"
    shown = call("job", "show", "erp-db").stdout
    assert "until 2099-01-01T00:00:00Z by" in shown
    status = call("status")
    assert (status.exit_code, "erp-db: paused (new disks)" in status.stdout) == (1, True)
    assert answer(call("job", "enable", "erp-db", "-o", "json"))["next_run_at"] == before


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (("--until", "1999-01-01", "--reason", "x"), 2),
        (("--until", "soon", "--reason", "x"), 2),
        (("--until", "8h"), 2),
        (("--reason", "x"), 2),
    ],
)
def test_a_pause_needs_an_end_to_come_and_a_reason(call: Call, words: tuple[str, ...], exit_code: int) -> None:
    assert call("job", "pause", "erp-db", *words).exit_code == exit_code


def test_a_disabled_job_can_not_be_paused(call: Call) -> None:
    assert call("job", "disable", "erp-db").exit_code == 0
    refused = call("job", "pause", "erp-db", "--until", "8h", "--reason", "x", "-o", "json")
    assert json.loads(refused.stderr)["code"] == "spec_invalid"


def test_every_command_of_the_page_works(call: Call, database: str) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("bootpoint ")]
    assert len(commands) >= 7
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE run ALTER COLUMN id RESTART WITH 4711")
    assert call("job", "run", "erp-db", "--timeout", "0").exit_code == 0
    for command in commands:
        done = call(*shlex.split(command, comments=True)[1:])
        assert done.exit_code == 0, f"{command}: {done.output}"
        if "run show" in command:
            assert "place 1 of 1 in the line" in done.stdout
