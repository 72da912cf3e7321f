"""``bootpoint vm`` through a worker: where a standby stands, what that keeps, and what the rows say of it at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bootpoint_common.store import reference
from bootpoint_common.units import GRAIN, MiB
from bootpoint_ops import reached
from bootpoint_ops.cli import main
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.host import HostAccess
from tests.service.fleet import Fleet, fleet

SIZE = 8 * MiB


@dataclass
class Site:
    """A fleet with one protected disk on a fake host, and the command line beside it."""

    fleet: Fleet
    host: FakeHost
    disk: Path
    job: int
    rng: Random
    invoke: Callable[..., Result]

    def run(self) -> str:
        """Change the disk, do a run, and return its point's name."""
        with self.disk.open("r+b") as stream:
            stream.seek(self.rng.randrange(SIZE // GRAIN) * GRAIN)
            stream.write(self.rng.randbytes(GRAIN))
        self.fleet.wait(self.fleet.run(self.job))
        return self.fleet.points(self.job)[-1].name

    def done(self, *words: str) -> dict[str, Any]:
        result = self.invoke(*words, "-o", "json")
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def refused(self, *words: str) -> tuple[int, str]:
        result = self.invoke(*words, "-o", "json")
        return result.exit_code, json.loads(result.stderr)["code"]

    def replica(self) -> dict[str, Any]:
        """Return what ``job show`` says of the only target."""
        (target,) = self.done("job", "show", "erp")["targets"]
        return dict(target)

    def in_use(self) -> dict[str, list[str]]:
        """Return what ``point list`` says of who uses which point."""
        items = self.done("point", "list", "erp")["items"]
        return {item["name"]: [use["kind"] for use in item["in_use_by"]] for item in items if item["in_use_by"]}

    def listed(self) -> dict[str, Any]:
        items = self.done("vm", "list", self.host.name)["items"]
        return next(item for item in items if item["name"] == "erp-standby")

    def events(self) -> list[str]:
        rows = self.fleet.rows("SELECT kind FROM event WHERE starts_with(kind, 'vm_') OR kind = 'drift' ORDER BY id")
        return [row["kind"] for row in rows]


@pytest.fixture
def site(database: str, tmp_path: Path, rng: Random) -> Iterator[Site]:
    env = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
    }
    disk = tmp_path / "system.raw"
    disk.touch()
    with disk.open("r+b") as stream:
        stream.truncate(SIZE)
    with fleet(database, tmp_path) as made:
        host = f"fake-{tmp_path.name}"
        made.add_worker("w1")
        host_id = made.add_host(host)
        made.add_agent("erp", [disk])
        job = made.add_job("erp", "erp", {"system": disk}, host_id)
        yield Site(
            made, FakeHost.at(host), disk, job, rng, lambda *words: CliRunner().invoke(main, words, env=env)
        )


def test_a_reverted_standby_is_shown_and_its_point_is_in_use_until_it_is_let_go(site: Site) -> None:
    first, second = site.run(), site.run()
    on = site.host.name
    assert (site.listed()["stands_on"], site.listed()["newest"], site.in_use()) == (second, second, {})
    machine = site.done("vm", "revert", on, "erp-standby", first)
    assert (machine["state"], machine["point"], machine["held"]) == ("off", first, True)
    assert (site.replica()["standby"], site.replica()["held"], site.in_use()) == ("off", first, {first: ["standby"]})
    third = site.run()
    shown = site.listed()
    assert (shown["stands_on"], shown["held"], shown["newest"], shown["points"]) == (first, True, third, 3)
    assert site.in_use() == {first: ["standby"]}
    points = site.done("vm", "points", on, "erp-standby")
    assert [(item["name"], item["standby"]) for item in points["items"]] == [
        (first, True), (second, False), (third, False)
    ]  # fmt: skip
    assert f"reverted to {first}" in site.invoke("job", "show", "erp").stdout
    assert site.done("vm", "revert", on, shown["uuid"], second)["point"] == second
    assert site.in_use() == {second: ["standby"]}
    assert site.done("vm", "revert", on, "erp-standby", "latest")["point"] == third
    assert (site.replica()["held"], site.in_use()) == (None, {})
    fourth = site.run()
    assert (site.listed()["stands_on"], site.listed()["held"]) == (fourth, False)
    assert site.events() == ["vm_reverted"] * 3


def test_a_start_and_a_stop_are_in_the_rows_at_once(site: Site) -> None:
    first, second = site.run(), site.run()
    on = site.host.name
    assert site.done("vm", "start", on, "erp-standby", first, "--yes")["point"] == first
    assert (site.replica()["standby"], site.in_use()) == ("running", {first: ["standby"]})
    # Hosts of this kind tell no guest its addresses.
    assert site.done("vm", "address", on, "erp-standby") == {"name": "erp-standby", "addresses": []}
    assert site.refused("vm", "start", on, "erp-standby", "--yes") == (4, "standby_running")
    assert site.refused("vm", "revert", on, "erp-standby", "latest") == (4, "standby_running")
    assert site.in_use() == {first: ["standby"]}
    assert site.done("vm", "stop", on, site.listed()["uuid"], "--yes")["state"] == "off"
    assert (site.replica()["standby"], site.in_use()) == ("off", {})
    assert site.done("vm", "start", on, "erp-standby", "--yes")["point"] == second
    assert site.in_use() == {second: ["standby"]}
    site.done("vm", "stop", on, "erp-standby", "--yes")
    assert site.events() == ["vm_started", "vm_stopped", "vm_started", "vm_stopped"]


def test_a_host_that_no_cluster_has_is_said_to_have_none(site: Site) -> None:
    site.run()
    assert site.refused("vm", "cluster", site.host.name, "erp-standby", "--add") == (1, "host_unsupported")
    assert site.invoke("vm", "cluster", site.host.name, "erp-standby").exit_code == 2
    assert site.events() == []


def test_a_test_uses_its_point_until_it_is_stopped(site: Site) -> None:
    first = site.run()
    site.run()
    on = site.host.name
    site.done("vm", "start", on, "erp-standby", first, "--test", "t1", "--yes")
    assert (site.replica()["standby"], site.in_use()) == ("test", {first: ["test"]})
    third = site.run()
    assert site.in_use() == {first: ["test"]}
    found = site.done("vm", "list", on)["items"]
    assert [(item["test_id"], item["stands_on"]) for item in found] == [(None, third), ("t1", first)]
    assert site.refused("vm", "stop", on, "erp-standby", "--test", "t2") == (3, "no_such_vm")
    assert site.done("vm", "stop", on, "erp-standby", "--test", "t1")["name"] == "erp-standby-test-t1"
    assert (site.replica()["standby"], site.in_use()) == ("off", {})


def test_a_standby_that_powered_itself_off_holds_its_point_until_the_next_commit(site: Site) -> None:
    first = site.run()
    site.done("vm", "start", site.host.name, "erp-standby", first, "--yes")
    second = site.run()
    assert (site.replica()["standby"], site.in_use()) == ("running", {first: ["standby"]})
    site.host.operator_stop("erp-standby")
    third = site.run()
    assert (site.replica()["standby"], site.in_use()) == ("off", {})
    assert site.listed()["stands_on"] == third
    assert second != third


def test_a_point_that_is_being_merged_is_neither_started_nor_reverted_to(site: Site) -> None:
    first = site.run()
    site.run()
    seen = Event()

    def until_seen(_session: object) -> None:
        """Keep a worker that comes to the merge by itself from being done with it."""
        seen.wait(60)

    site.host.act_at("consolidate", "called", until_seen)
    with site.fleet.database.transaction() as connection:
        connection.execute("UPDATE replica SET consolidating = (SELECT id FROM boot_point WHERE name = %s)", (first,))
    for verb in (("start", "--yes"), ("revert",)):
        words = ("vm", verb[0], site.host.name, "erp-standby", first, *verb[1:])
        assert site.refused(*words) == (4, "point_in_use")
    assert (site.listed()["state"], site.listed()["held"]) == ("off", False)
    seen.set()


def test_a_start_that_failed_holds_nothing(site: Site) -> None:
    first = site.run()
    site.host.act_at("start", "run", lambda _session: (_ for _ in ()).throw(site.host.failed("by a test")))
    assert site.refused("vm", "start", site.host.name, "erp-standby", first, "--yes")[0] == 1
    assert (site.listed()["state"], site.in_use()) == ("off", {})


def test_what_a_dead_test_leaves_in_the_rows_is_cleared_by_the_next_commit(site: Site) -> None:
    """Somebody ends a test without bootpoint, with the database away: the host's journal is what counts."""
    first = site.run()
    row = site.fleet.row("SELECT p.id FROM boot_point p WHERE name = %s", first)
    assert row is not None
    with site.fleet.database.transaction() as connection:
        reference.take(connection, row["id"], "test", "erp-standby-test-gone", seconds=None)
        reference.take(connection, row["id"], "export", "root@here", seconds=3600)
    site.run()
    assert site.in_use() == {first: ["export"]}


def test_what_is_not_there_is_named(site: Site) -> None:
    site.run()
    for words, code in (
        (("points", "nobody"), "no_such_vm"),
        (("points", "00000000-0000-4000-8000-000000000000"), "no_such_vm"),
        (("revert", "nobody", "latest"), "no_such_vm"),
        (("revert", "erp-standby", "V20000101_000000"), "no_such_point"),
        (("start", "nobody", "--yes"), "no_such_vm"),
        (("start", "erp-standby", "V20000101_000000", "--yes"), "no_such_point"),
        (("stop", "nobody", "--yes"), "no_such_vm"),
        (("stop", "erp-standby", "--test", "t2"), "no_such_vm"),
    ):
        assert site.refused("vm", words[0], site.host.name, *words[1:]) == (3, code), words


def test_who_reads_a_point_has_this_machines_certificates_for_nbd(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.run()
    seen: list[HostAccess] = []

    def connecting(access: HostAccess) -> Target:
        seen.append(access)
        return connect(access)

    monkeypatch.setattr(reached, "connect", connecting)
    monkeypatch.setenv("BOOTPOINT_NBD_TLS", str(tmp_path))
    # A fake host shares no disk with other programs.
    words = ("point", "export", "erp", "latest", "--to", str(tmp_path), "--format", "raw")
    assert site.refused(*words)[1] == "host_unsupported"
    assert [access.nbd_tls for access in seen] == [tmp_path]
