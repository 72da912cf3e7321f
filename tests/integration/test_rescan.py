"""After the database came from a backup, or was lost: what a host has is compared, and taken over."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from bootpoint_common.digest import SEGMENT
from bootpoint_common.identity import new_id
from bootpoint_common.store import adoption, kept, request, segment
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.point import Point
from bootpoint_common.units import GRAIN, MiB
from bootpoint_ops.cli import main
from bootpoint_worker import adopt
from bootpoint_worker.targets.fake import FakeTarget
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.fake_io import FakeReader
from tests.service.fleet import WITHOUT_SOCKET, Fleet

SIZE = 40 * MiB


class Site:
    """One job of one disk with some points, and a database that can forget the newest of them."""

    def __init__(self, fleet: Fleet, folder: Path, rng: random.Random) -> None:
        self.fleet, self.rng = fleet, rng
        self.host = FakeHost.at(f"fake-{folder.name}")
        self.disk = folder / "system.raw"
        with self.disk.open("wb") as stream:
            stream.truncate(SIZE)
        self.service = fleet.add_worker("w1")
        self.host_id = fleet.add_host(self.host.name)
        fleet.add_agent("erp", [self.disk])
        self.job = fleet.add_job("erp", "erp", {"system": self.disk}, self.host_id)
        self.content: dict[UUID, bytes] = {}
        for grain in (0, 1, 2, 300, 301, 600):
            self.write(grain)

    def write(self, grain: int, data: bytes | None = None) -> None:
        with self.disk.open("r+b") as stream:
            stream.seek(grain * GRAIN)
            stream.write(self.rng.randbytes(GRAIN) if data is None else data)

    def run(self, *grains: int) -> Point:
        """Change grains and do a run; returns its point."""
        for grain in grains:
            self.write(grain)
        self.fleet.wait(self.fleet.run(self.job))
        made = self.fleet.points(self.job)[-1]
        self.content[made.id] = self.disk.read_bytes()
        return made

    def forget(self, *points: Point) -> None:
        """Bring the database back to what it was before these points, the newest ones."""
        ids = [made.id for made in points]
        with self.fleet.database.transaction() as connection:
            execute(connection, "UPDATE replica SET head = %s WHERE job_id = %s", points[0].base, self.job)
            execute(connection, "DELETE FROM boot_point WHERE id = ANY(%s)", ids)
            execute(connection, "DELETE FROM run WHERE uid = ANY(%s)", [made.run_uid for made in points])

    def lose_everything(self) -> None:
        """Make a replica of another id for the same job, as an `apply` on an empty database does."""
        with self.fleet.database.transaction() as connection:
            execute(connection, "UPDATE replica SET head = NULL")
            execute(connection, "DELETE FROM boot_point")
            execute(connection, "DELETE FROM run")
            execute(connection, "UPDATE replica SET id = %s, definition = NULL, chain = 1", new_id())

    def rescan(self, *, adopting: bool = False) -> dict[str, Any]:
        """Ask the worker; returns what it says of the one replica, once an adoption has ended."""
        with self.fleet.database.transaction() as connection:
            arguments = {"host": self.host.name, "adopt": adopting, "actor": "test"}
            asked = request.ask_worker(connection, "fake", "host_rescan", arguments, requested_by="test", seconds=30.0)
        nobody = AssertionError("no answer")
        answer = request.wait(self.fleet.database, asked, seconds=30.0, nobody=nobody)  # type: ignore[arg-type]
        (item,) = answer["items"]
        if item["adoption"] is not None:
            item["ended"] = self.ended(UUID(item["adoption"]))
        return dict(item)

    def ended(self, adoption_id: UUID) -> dict[str, Any]:
        return self.fleet.wait_until(
            lambda: self.fleet.row(
                "SELECT state, done, problem FROM adoption WHERE id = %s AND state <> 'asked'", adoption_id
            )
        )

    def tables(self, made: Point) -> tuple[bytes, bytes]:
        """Return the root that the stored digests of a point give, and the one that its source had."""
        with self.fleet.database.transaction() as connection:
            table = segment.segments(connection, made.replica_id, "system", SIZE, upto=made.sequence)
        row = self.fleet.row("SELECT read_digest FROM boot_point_disk WHERE point_id = %s", made.id)
        assert row is not None
        return table.root(), row["read_digest"]

    def events(self, kind: str) -> list[str]:
        return [row["text"] for row in self.fleet.rows("SELECT text FROM event WHERE kind = %s ORDER BY id", kind)]


@pytest.fixture
def site(installation: Fleet, tmp_path: Path, rng: random.Random) -> Site:
    return Site(installation, tmp_path, rng)


def require_increment(site: Site, made: Point, grains: int) -> None:
    """Require that a run sent what changed and no more, on the agent's own base."""
    row = site.fleet.row(
        "SELECT p.kind, p.reason, d.changed_bytes FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
        " WHERE p.id = %s",
        made.id,
    )
    assert row == {"kind": "increment", "reason": None, "changed_bytes": grains * GRAIN}
    assert site.host.content(made.replica_id, made.id, "system") == site.content[made.id]


def test_an_older_database_takes_the_points_over_and_the_next_run_is_an_increment(site: Site) -> None:
    first, second = site.run(), site.run(1, 300)
    site.write(600, bytes(GRAIN))  # a segment that holds nothing any more, but did below
    third = site.run(2)
    site.forget(second, third)
    failed = site.fleet.wait(site.fleet.run(site.job), state="failed")
    assert failed["reason"] == "base_mismatch"
    shown = site.rescan()
    assert (shown["points_both"], shown["points_host_only"], shown["points_database_only"]) == (1, 2, 0)
    assert "2 points are read" in shown["adopt"]
    assert third.name in shown["adopt"]
    assert [made.id for made in site.fleet.points(site.job)] == [first.id]
    done = site.rescan(adopting=True)
    assert (done["ended"]["state"], done["ended"]["done"]) == ("done", [third.name, second.name])
    adopted = site.fleet.points(site.job)
    assert [made.id for made in adopted] == [first.id, second.id, third.id]
    for made in adopted:
        given, wanted = site.tables(made)
        assert given == wanted
    runs = site.fleet.rows("SELECT requested_by, state FROM run WHERE requested_by = 'adopt'")
    assert runs == [{"requested_by": "adopt", "state": "succeeded"}] * 2
    require_increment(site, site.run(5), 1)
    assert site.rescan()["adopt"] is None
    assert site.rescan(adopting=True)["adoption"] is None
    assert site.fleet.row("SELECT frozen FROM replica") == {"frozen": None}


def test_the_command_waits_for_the_adoption_and_shows_it(site: Site, tmp_path: Path) -> None:
    first, second = site.run(), site.run(300)
    site.forget(second)
    env = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": site.fleet.database.url,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "COLUMNS": "200",
    }

    def call(*words: str) -> Result:
        return CliRunner().invoke(main, words, env=env)

    assert call("db", "migrate").exit_code == 0
    shown = call("host", "rescan", site.host.name)
    assert shown.exit_code == 0, shown.stderr
    assert "1 points are read" in shown.stdout
    adopted = call("host", "rescan", site.host.name, "--adopt", "-o", "json")
    assert adopted.exit_code == 0, adopted.stderr
    (item,) = json.loads(adopted.stdout)["items"]
    assert item["adopted"] == {"points": [second.name], "error": None}
    assert [made.id for made in site.fleet.points(site.job)] == [first.id, second.id]
    # Damage has its place in the same commands: named, and an exit code that scripts see.
    site.host.rot(first.replica_id, first.id, "system", 0)
    verified = call("point", "verify", "erp", "latest")
    assert (verified.exit_code, "segment 0 grain 0" in verified.stdout) == (1, True), verified.stdout
    point = json.loads(call("point", "show", "erp", "latest", "-o", "json").stdout)
    assert [(each["segment"], each["grains"]) for each in point["damage"]] == [(0, [0])]
    assert "damaged" in call("point", "list", "erp").stdout
    assert call("host", "set", site.host.name, "--verify-budget", "many", "-o", "json").exit_code == 2
    assert call("host", "set", site.host.name, "--verify-budget", "5GiB", "-o", "json").exit_code == 0
    row = site.fleet.row("SELECT settings->'verify_budget_bytes' AS n FROM host")
    assert row == {"n": 5 << 30}


def test_a_lost_database_takes_the_hosts_replica_for_the_job_of_its_name(site: Site) -> None:
    first, second = site.run(), site.run(300)
    site.lose_everything()
    before = site.rescan()
    assert (before["state"], before["points_host_only"]) == ("unknown", 2)
    assert "becomes the replica of job erp" in before["adopt"]
    done = site.rescan(adopting=True)
    assert done["ended"]["done"] == [second.name, first.name]
    assert [made.id for made in site.fleet.points(site.job)] == [first.id, second.id]
    assert site.fleet.rows("SELECT id FROM replica") == [{"id": first.replica_id}]
    require_increment(site, site.run(600, 2), 2)


def test_a_job_that_has_points_of_another_replica_takes_nothing_over(site: Site) -> None:
    site.run()
    with site.fleet.database.transaction() as connection:
        execute(connection, "UPDATE job SET name = 'other'")
        execute(connection, "UPDATE replica SET head = NULL")
        execute(connection, "DELETE FROM boot_point")
        execute(connection, "DELETE FROM run")
        execute(connection, "DELETE FROM replica")
    done = site.rescan(adopting=True)
    assert done["adoption"] is None
    assert "apply its job file first" in done["adopt"]


def test_what_is_damaged_on_the_host_is_not_taken_over(site: Site) -> None:
    first, second = site.run(), site.run(300)
    site.host.rot(first.replica_id, second.id, "system", 5)
    site.forget(second)
    done = site.rescan(adopting=True)
    assert done["ended"]["state"] == "failed"
    assert done["ended"]["problem"]["code"] == "target_check_failed"
    assert [made.id for made in site.fleet.points(site.job)] == [first.id]
    assert site.events("adoption_failed")


def test_a_replica_without_its_head_is_broken_until_it_is_there_again(site: Site) -> None:
    _, second = site.run(), site.run(300)
    ((place, manifest),) = site.host.manifests.items()
    older = site.host.manifests[place].__class__(
        **{name: getattr(manifest, name) for name in manifest.__slots__} | {"points": manifest.points[:1]}
    )
    site.host.manifests[place] = older
    shown = site.rescan()
    assert (shown["state"], shown["points_database_only"]) == ("broken", 1)
    (said,) = site.events("replica_broken")
    assert second.name in said
    site.host.manifests[place] = manifest
    assert site.rescan()["state"] == "ok"
    assert site.events("replica_whole")
    assert len(site.events("replica_broken")) == 1


def test_a_run_that_commits_while_the_host_is_read_breaks_no_replica(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.run()
    real = FakeTarget.find_replicas

    def slow(self: FakeTarget) -> Any:
        found = real(self)
        monkeypatch.setattr(FakeTarget, "find_replicas", real)
        site.run(300)
        return found

    monkeypatch.setattr(FakeTarget, "find_replicas", slow)
    assert site.rescan()["state"] == "ok"
    assert site.events("replica_broken") == []


def test_a_host_that_went_back_is_followed(site: Site) -> None:
    first, second = site.run(), site.run(300)
    ((place, manifest),) = site.host.manifests.items()
    values = {name: getattr(manifest, name) for name in manifest.__slots__}
    site.host.manifests[place] = manifest.__class__(**values | {"points": manifest.points[:1]})
    done = site.rescan(adopting=True)
    assert done["ended"]["state"] == "done"
    assert site.fleet.row("SELECT head, state FROM replica") == {"head": first.id, "state": "ok"}
    assert second.name in site.events("point_missing")[0]
    third = site.run(2)
    assert site.host.content(third.replica_id, third.id, "system") == site.content[third.id]


def test_what_a_host_lost_is_not_taken_for_the_content_of_a_later_point(site: Site, tmp_path: Path) -> None:
    """Else an agent that asks for segment digests believes that the host has what it lost."""
    first = site.run()
    shutil.copytree(tmp_path / "agent-erp", tmp_path / "old-state", ignore=WITHOUT_SOCKET)
    second = site.run(300)
    _bring_back(site, 1)
    site.rescan(adopting=True)
    site.disk.write_bytes(site.content[first.id])
    third = site.run()
    given, wanted = site.tables(third)
    site.fleet.agents["erp"].stop()
    shutil.rmtree(tmp_path / "agent-erp")
    (tmp_path / "old-state").rename(tmp_path / "agent-erp")
    site.fleet.start_agent("erp", [site.disk])
    site.disk.write_bytes(site.content[second.id])
    fourth = site.run()
    assert site.host.content(fourth.replica_id, fourth.id, "system") == site.content[second.id]
    assert given == wanted


def test_a_host_that_went_back_and_came_again_is_followed_twice(site: Site) -> None:
    first, second = site.run(), site.run(300)
    newest = _bring_back(site, 1)
    site.rescan(adopting=True)
    ((place, _older),) = site.host.manifests.items()
    site.host.manifests[place] = newest
    done = site.rescan(adopting=True)
    assert done["ended"]["done"] == [second.name]
    assert [made.id for made in site.fleet.points(site.job)] == [first.id, second.id]
    assert site.tables(second)[0] == site.tables(second)[1]
    assert site.rescan()["adopt"] is None
    third = site.run(2)
    assert site.host.content(third.replica_id, third.id, "system") == site.content[third.id]


def _bring_back(site: Site, points: int) -> Any:
    """Let the host have its oldest points only; returns the journal that it had."""
    ((place, manifest),) = site.host.manifests.items()
    values = {name: getattr(manifest, name) for name in manifest.__slots__}
    site.host.manifests[place] = manifest.__class__(**values | {"points": manifest.points[:points]})
    return manifest


def test_an_alarm_during_an_adoption_outlives_it(site: Site) -> None:
    made = site.run()
    with site.fleet.database.transaction() as connection:
        adoption.freeze(connection, made.replica_id)
        assert kept.freeze(connection, made.replica_id, made.id, "it looks like encryption")
        assert not kept.freeze(connection, made.replica_id, made.id, "once more")
        adoption.freeze(connection, made.replica_id)
        adoption.thaw(connection, made.replica_id)
    row = site.fleet.row("SELECT frozen->>'reason' AS why FROM replica")
    assert row == {"why": "it looks like encryption"}


def test_an_adoption_goes_on_where_it_was_interrupted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, second = site.run(), site.run(300)
    site.forget(second)
    read: list[int] = []
    real: Callable[[FakeReader, int, int], bytes] = FakeReader.read

    def counted(self: FakeReader, offset: int, length: int) -> bytes:
        read.append(offset)
        return real(self, offset, length)

    monkeypatch.setattr(FakeReader, "read", counted)
    monkeypatch.setattr(adopt, "LONGEST", 0.0)
    monkeypatch.setattr(adopt, "BUSY_SECONDS", 0.2)
    done = site.rescan(adopting=True)
    assert done["ended"]["done"] == [second.name]
    # Ahead of an interruption some more may be read; what was recorded is never read again.
    assert sum(offset < SEGMENT for offset in read) <= 3
    row = site.fleet.row("SELECT count(*) AS n FROM adoption_segment")
    assert row == {"n": 0}
    with site.fleet.database.transaction() as connection:
        assert adoption.state(connection, UUID(done["adoption"]))["left"] == 0
