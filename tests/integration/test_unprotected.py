"""A disk that no job protects: an event, a line of `status`, a metric, and a key of `job show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest

from bootpoint_common import message
from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.store import agent as agents
from bootpoint_common.store import request
from bootpoint_common.store.database import Database, one_row, rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.units import GiB
from bootpoint_ops.cli import main
from bootpoint_ops.gauge import StateCollector
from bootpoint_worker import heard
from tests.model.world import World

JOB = """
name = "{name}"
[source]
agent = "src"
disks = {disks}
[[target]]
host = "h1"
"""


def disk(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"serial:{name}", "path": f"/dev/{name}", "size_bytes": GiB, "eligible": True, **more}


class Site:
    """An installation with a host and an agent, and no process beside the commands."""

    def __init__(self, database: str, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            "BOOTPOINT_STATE": str(folder / "state"), "BOOTPOINT_DATABASE_URL": database,
            "BOOTPOINT_INSTALLATION_KEY": str(folder / "key"),
        }  # fmt: skip
        self.database = Database(database, size=2)
        vault = Vault(load_or_create_installation_key(folder / "key"))
        with self.database.transaction() as connection:
            agents.enroll(connection, "src", "kvm", vault.encrypt(agents.join_purpose("src"), b"s" * 32))
        assert self.call("host", "add", "h1", "--kind", "fake", "--address", "h1", "--timeout", "0").exit_code == 0

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(main, words, env=self._environment)

    def apply(self, name: str, *disks: str) -> None:
        listed = ", ".join(f'{{ slot = "d{number}", id = "serial:{disk}" }}' for number, disk in enumerate(disks))
        file = self._folder / f"{name}.toml"
        file.write_text(JOB.format(name=name, disks=f"[ {listed} ]" if disks else '"all"'))
        result = self.call("job", "apply", str(file), "--timeout", "0")
        assert result.exit_code == 0, result.stderr

    def tell(self, *disks: dict[str, Any]) -> None:
        """Let the agent answer which disks it has."""
        with self.database.transaction() as connection:
            asked = request.ask_agent(connection, "src", "disks", {}, requested_by="test", seconds=60)
            found = agents.get(connection, "src")
            heard.answer(connection, found, message.Answer(request=asked, answer={"items": [*disks]}))
            assert one_row(connection, "SELECT error FROM request WHERE id = %s", asked)["error"] is None

    def events(self) -> list[str]:
        with self.database.transaction() as connection:
            found = rows(connection, "SELECT text FROM v_event WHERE kind = 'disk_unprotected' ORDER BY id")
        return [row["text"] for row in found]

    def gauge(self) -> str:
        registry = CollectorRegistry()
        registry.register(StateCollector(self.database))
        lines = generate_latest(registry).decode().splitlines()
        return next(line.rpartition(" ")[2] for line in lines if line.startswith("bootpoint_unprotected_disks{"))


@pytest.fixture
def site(database: str, tmp_path: Path) -> Any:
    made = Site(database, tmp_path)
    yield made
    made.database.close()


def text(name: str) -> str:
    return f"no job protects disk serial:{name} of src (/dev/{name}, 1.0 GiB)"


def test_a_disk_is_told_once_when_no_job_protects_it(site: Site) -> None:
    site.tell(disk("a"), disk("b"), disk("swap", eligible=False, reason="swap_only"))
    assert site.events() == [], "while a machine is set up nobody wants to hear of each disk"
    assert site.gauge() == "2.0"
    site.apply("one", "a")
    assert site.events() == [text("b")]
    for _ in range(2):
        site.tell(disk("a"), disk("b"), disk("swap", eligible=False, reason="swap_only"))
    assert site.events() == [text("b")]
    site.tell(disk("a"), disk("b"), disk("c"))
    assert site.events() == [text("b"), text("c")]
    assert site.gauge() == "2.0"
    site.apply("two", "b", "c")
    assert (site.events(), site.gauge()) == ([text("b"), text("c")], "0.0")
    assert site.call("job", "delete", "two", "--yes").exit_code == 0
    assert site.events() == [text("b"), text("c")] * 2, "what was protected and is no more is told anew"


def test_a_job_of_all_disks_leaves_none_out(site: Site) -> None:
    site.tell(disk("a"), disk("b"))
    site.apply("all")
    site.tell(disk("a"), disk("b"), disk("c"))
    assert (site.events(), site.gauge()) == ([], "0.0")


def test_a_disk_that_goes_and_comes_back_is_told_again(site: Site) -> None:
    site.tell(disk("a"))
    site.apply("one", "a")
    for _ in range(2):
        site.tell(disk("a"), disk("b"))
        site.tell(disk("a"))
    assert site.events() == [text("b")] * 2


def test_status_has_a_line_for_it_which_is_no_failure(site: Site) -> None:
    assert site.call("status").stdout == "0 jobs, all ok\n"
    site.tell(disk("a"), disk("b"))
    result = site.call("status")
    assert (result.exit_code, result.stdout) == (0, "src: has no job (2 disks)\n0 jobs, all ok\n")
    site.apply("one", "a")
    result = site.call("status")
    assert result.stdout == (
        "one: never, no boot point yet\nsrc: disk serial:b (/dev/b, 1.0 GiB) is in no job\n"
    )
    (item,) = json.loads(site.call("status", "-o", "json").stdout)["unprotected_disks"]
    assert (item["agent"], item["id"], item["size_bytes"], item["jobs"]) == ("src", "serial:b", GiB, True)
    assert item["since"] is not None


def test_job_show_and_disk_list_say_what_is_protected(site: Site) -> None:
    site.tell(disk("a"), disk("b", tracker_reason="for the drawing only"))
    site.apply("one", "a")
    assert json.loads(site.call("job", "show", "one", "-o", "json").stdout)["unprotected_disks"] == ["serial:b"]
    assert "serial:b" in site.call("job", "show", "one").stdout
    # Its agent is away: what it said before is shown.
    found = json.loads(site.call("disk", "list", "src", "-o", "json").stdout)
    assert {item["id"]: item["protected_by"] for item in found["items"]} == {"serial:a": ["one"], "serial:b": []}
    assert set(found["items"][0]) == {
        "id", "path", "size_bytes", "logical_sector_bytes", "physical_sector_bytes", "table", "eligible", "reason",
        "protected_by", "snapshot", "tracker", "used_bytes", "partitions",
    }  # fmt: skip
    shown = site.call("disk", "list", "src", "--draw").stdout
    assert "in one" in shown
    assert "in no job" in shown
    assert "tracker   not known: for the drawing only" in shown
    table = site.call("disk", "list", "src").stdout.splitlines()
    assert table[0].split() == ["ID", "PATH", "SIZE", "USED", "TABLE", "ELIGIBLE", "SNAPSHOT", "TRACKER", "JOBS"]
    assert table[1].split()[-1] == "one"


def test_a_revoked_agent_is_no_longer_told_of(site: Site) -> None:
    site.tell(disk("a"))
    with site.database.transaction() as connection:
        execute(connection, "UPDATE agent SET revoked_at = now()")
    assert site.call("status").stdout == "0 jobs, all ok\n"


@pytest.mark.parametrize(
    "item",
    [
        {"partitions": "none"},
        {"partitions": [{"number": 1}]},
        {"partitions": [{"number": 1, "path": "/dev/a1", "start_bytes": 0, "size_bytes": 1, "holds": [7]}]},
        {"tracker_reason": 7},
        {"logical_sector_bytes": "many"},
    ],
)
def test_a_list_that_could_not_be_drawn_is_not_kept(site: Site, item: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="bundle_rejected"):
        site.tell(disk("a", **item))
    assert site.call("status").stdout == "0 jobs, all ok\n"


def test_a_running_agent_is_asked_again_every_hour_but_not_at_its_start(world: World) -> None:
    def asked() -> int:
        world.reap()
        return len(world.rows("SELECT 1 FROM request WHERE kind = 'disks' AND state = 'asked'"))

    def agent(values: str) -> None:
        with world.database.transaction() as connection:
            execute(connection, f"UPDATE agent SET last_seen_at = now(), {values} WHERE name = 's0'")

    agent("inventory = '{\"items\": []}', inventory_at = now() - interval '2 hours', incarnation_at = now()")
    assert asked() == 0, "at a machine's start not every disk is there yet"
    agent("incarnation_at = now() - interval '1 hour', inventory_at = now() - interval '50 minutes'")
    assert asked() == 0
    agent("inventory_at = now() - interval '61 minutes'")
    assert asked() == 1
    assert asked() == 1, "one question at a time"
    agent("revoked_at = now()")
    with world.database.transaction() as connection:
        execute(connection, "UPDATE request SET expires_at = now() WHERE kind = 'disks'")
    assert asked() == 1, "the one that ran out"
