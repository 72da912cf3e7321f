"""An operator's desk: commands called in this process, over an installation in which nothing else runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.store import agent as agents
from bootpoint_common.store.database import Database
from bootpoint_ops.cli import main

#: The only agent, and the only host.
AGENT, HOST = "src", "h1"

_JOB = """
name = "{name}"
objective = {{ point = "{objective}" }}
[source]
agent = "src"
disks = [{{ slot = "system", id = "serial:a" }}]
[[target]]
host = "h1"
"""


class Desk:
    """Commands, and the database behind them.

    Args:
        database: A migrated, empty database.
        folder: For the installation's key, and for job files.
    """

    def __init__(self, database: str, folder: Path) -> None:
        self._folder = folder
        self.environment = {
            "BOOTPOINT_STATE": str(folder / "state"), "BOOTPOINT_DATABASE_URL": database,
            "BOOTPOINT_INSTALLATION_KEY": str(folder / "key"), "COLUMNS": "200",
        }  # fmt: skip
        self.database = Database(database, size=2, origin="test")
        vault = Vault(load_or_create_installation_key(folder / "key"))
        with self.database.transaction() as connection:
            agents.enroll(connection, AGENT, "kvm", vault.encrypt(agents.join_purpose(AGENT), b"s" * 32))
        self.done("host", "add", HOST, "--kind", "fake", "--address", HOST, "--timeout", "0")

    def __call__(self, *words: str) -> Result:
        """Call a command."""
        return CliRunner().invoke(main, words, env=self.environment)

    def done(self, *words: str) -> str:
        """Call a command that has to succeed, and return what it printed."""
        result = self(*words)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def json(self, *words: str) -> dict[str, Any]:
        """Call a command that has to succeed, and return its JSON."""
        found: dict[str, Any] = json.loads(self.done(*words, "-o", "json"))
        return found

    def apply(self, name: str = "erp", *more: str, objective: str = "24h") -> None:
        """Apply a job of a disk that the agent never told of."""
        file = self._folder / f"{name}.toml"
        file.write_text(_JOB.format(name=name, objective=objective))
        self.done("job", "apply", str(file), "--timeout", "0", *more)


@contextmanager
def desk(database: str, folder: Path) -> Iterator[Desk]:
    """Open a desk, and close it."""
    made = Desk(database, folder)
    try:
        yield made
    finally:
        made.database.close()
