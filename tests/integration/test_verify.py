"""Verification of points on the fake target: what it finds, names, marks, and how the next run repairs it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from bootpoint_common.digest import SEGMENT
from bootpoint_common.identity import new_id
from bootpoint_common.store import reference
from bootpoint_common.store import verification as store
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.point import Point
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.question import Questions
from bootpoint_producer.scan import scan
from bootpoint_worker import reading, verify, verifying
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.fake_io import FakeReader
from bootpoint_worker.verification_due import look
from tests.service.fleet import Fleet

SIZE = 40 * MiB

#: Grains that hold something at first: some of each of the three segments.
FILLED = [*range(32), *range(290, 322), *range(590, 622)]


class Site:
    """One job of one disk of three segments."""

    def __init__(self, fleet: Fleet, folder: Path, rng: random.Random) -> None:
        self.fleet, self.rng = fleet, rng
        self.host = FakeHost.at(f"fake-{folder.name}")
        self.disk = folder / "system.raw"
        with self.disk.open("wb") as stream:
            stream.truncate(SIZE)
        for grain in FILLED:
            self.write(grain)
        self.service = fleet.add_worker("w1")
        self.host_id = fleet.add_host(self.host.name)
        self.agent = fleet.add_agent("erp", [self.disk])
        self.job = fleet.add_job("erp", "erp", {"system": self.disk}, self.host_id)
        self.content: dict[UUID, bytes] = {}

    def write(self, grain: int) -> None:
        with self.disk.open("r+b") as stream:
            stream.seek(grain * GRAIN)
            stream.write(self.rng.randbytes(GRAIN))

    def run(self) -> Point:
        """Do a run; returns its point."""
        self.fleet.wait(self.fleet.run(self.job))
        made = self.fleet.points(self.job)[-1]
        self.content[made.id] = self.disk.read_bytes()
        return made

    def rot(self, made: Point, grain: int) -> None:
        self.host.rot(made.replica_id, made.id, "system", grain * GRAIN + 77)

    def shows(self, made: Point) -> bool:
        """Tell whether a point reads as the source was."""
        return self.host.content(made.replica_id, made.id, "system") == self.content[made.id]

    def ask(self, made: Point, *, budgeted: bool = False) -> UUID:
        with self.fleet.database.transaction() as connection:
            return store.ask(connection, made.id, requested_by="test", budgeted=budgeted)

    def ended(self, asked: UUID) -> dict[str, Any]:
        """Wait for the end of a verification."""
        return self.fleet.wait_until(
            lambda: self.fleet.row(
                "SELECT result, problem FROM verification WHERE id = %s AND ended_at IS NOT NULL", asked
            )
        )

    def verify(self, made: Point) -> str:
        return str(self.ended(self.ask(made))["result"])

    def damage(self, made: Point) -> list[tuple[int, list[int] | None]]:
        found = self.fleet.rows("SELECT segment, grains FROM damage WHERE point_id = %s ORDER BY segment", made.id)
        return [(row["segment"], row["grains"]) for row in found]

    def damaged(self, made: Point) -> bool:
        row = self.fleet.row("SELECT is_damaged(damaged_at, verified_at) AS is FROM boot_point WHERE id = %s", made.id)
        assert row is not None
        return bool(row["is"])

    def events(self, kind: str) -> list[str]:
        return [row["text"] for row in self.fleet.rows("SELECT text FROM event WHERE kind = %s ORDER BY id", kind)]

    def execute(self, query: str, *arguments: object) -> None:
        with self.fleet.database.transaction() as connection:
            execute(connection, query, *arguments)


@pytest.fixture
def site(installation: Fleet, tmp_path: Path, rng: random.Random) -> Site:
    return Site(installation, tmp_path, rng)


def test_damage_is_named_shown_by_others_and_repaired_by_the_next_run(site: Site) -> None:
    first = site.run()
    site.write(600)
    second = site.run()  # looks through to the first one's grains, and has grain 600 of its own
    site.rot(first, 300)
    site.rot(first, 600)
    assert site.verify(second) == "damaged"
    assert site.damage(second) == [(1, [300])]
    assert site.damage(first) == [(1, [300])]
    assert site.damaged(first)
    (said,) = site.events("point_damaged")
    assert "disk system segment 1 grain 300" in said
    assert first.name in said
    # The source didn't change there: it travels all the same, and nothing but what has to.
    site.write(5)
    third = site.run()
    assert site.shows(third)
    assert not site.shows(second)
    (repaired,) = site.events("damage_repaired")
    assert "segment 1" in repaired
    changed = site.fleet.row("SELECT changed_bytes FROM boot_point_disk WHERE point_id = %s", third.id)
    assert changed == {"changed_bytes": SEGMENT + GRAIN}
    assert site.verify(third) == "verified"
    assert site.verify(first) == "damaged"
    assert site.damage(first) == [(1, [300]), (2, None)]  # nobody knows any more what grain 600 was then
    assert (site.damaged(second), site.damaged(third)) == (True, False)


def test_damage_in_a_segment_that_a_later_point_wrote_to_elsewhere_is_found_there(site: Site) -> None:
    first = site.run()
    site.write(10)
    second = site.run()  # grain 10 of segment 0 is its own: its digest differs, and grain 20 shines through
    site.rot(first, 20)
    assert site.verify(first) == "damaged"
    assert site.damaged(second)
    assert site.damage(second)[0][0] == 0


def test_a_point_that_reads_right_again_is_no_longer_damaged(site: Site) -> None:
    made = site.run()
    assert site.verify(made) == "verified"
    site.rot(made, 3)
    assert site.verify(made) == "damaged"
    assert site.damaged(made)
    site.rot(made, 3)  # flips the same byte back
    assert site.verify(made) == "verified"
    row = site.fleet.row(
        "SELECT damaged_at, verified_at IS NOT NULL AS verified FROM boot_point WHERE id = %s", made.id
    )
    assert row == {"damaged_at": None, "verified": True}
    assert site.damage(made) == []


def test_an_agent_that_lies_or_is_away_names_no_grain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.run()
    site.rot(made, 3)
    for told, why in (({"0": "AAAA"}, "block map"), ({"0": b"raw bytes"}, "nonsense"), ({"0": 7}, "nonsense")):
        monkeypatch.setattr(Questions, "_entries", lambda *_, told=told: {"entries": told})
        assert site.verify(made) == "damaged"
        assert site.damage(made) == [(0, None)]
        assert "segment 0 (bytes" in site.events("point_damaged")[-1]
        assert why in site.events("point_damaged")[-1]
        site.execute("DELETE FROM damage")
    monkeypatch.undo()
    site.execute("UPDATE agent SET last_seen_at = now() - interval '1 hour'")
    site.agent.stop()
    site.rot(made, 300)
    assert site.verify(made) == "damaged"
    assert "did not answer" in site.events("point_damaged")[-1]


def test_an_agent_that_does_not_know_what_to_send_again_repairs_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.run()
    site.rot(first, 3)
    assert site.verify(first) == "damaged"
    monkeypatch.setattr("bootpoint_producer.feed.scan", lambda *a, **k: scan(*a, **{**k, "resend": frozenset()}))
    second = site.run()
    assert site.damaged(second)
    assert site.events("damage_repaired") == []
    monkeypatch.undo()
    third = site.run()
    assert site.shows(third)
    assert not site.damaged(third)


def test_an_agent_that_lost_its_map_sends_damaged_segments_too(site: Site) -> None:
    first = site.run()
    site.rot(first, 300)
    assert site.verify(first) == "damaged"
    for file in (site.fleet.directory / "agent-erp" / "maps").glob("*/*/point.json"):
        file.unlink()
    second = site.run()
    assert site.shows(second)
    assert site.verify(second) == "verified"
    assert site.fleet.row("SELECT reason FROM boot_point WHERE id = %s", second.id) == {"reason": "base_lost"}


def test_each_segment_is_read_once_however_often_the_work_is_interrupted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site.run()
    compared: list[int] = []
    real: Callable[[reading.Segment], bytes] = reading.Segment.digest.fget  # type: ignore[attr-defined]  # a property

    def counted(self: reading.Segment) -> bytes:
        compared.append(self.number)
        return real(self)

    monkeypatch.setattr(reading.Segment, "digest", property(counted))
    monkeypatch.setattr(verify, "LONGEST", 0.0)
    assert site.verify(made) == "verified"
    assert compared == [0, 1, 2]
    row = site.fleet.row("SELECT reread_digest = read_digest AS same FROM boot_point_disk WHERE point_id = %s", made.id)
    assert row == {"same": True}


def test_damage_is_said_before_the_rest_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.run()
    site.rot(made, 3)
    monkeypatch.setattr(verify, "LONGEST", 0.0)
    monkeypatch.setattr("bootpoint_worker.verify.outbox.task", lambda *_, **__: None)
    with site.fleet.database.transaction() as connection:
        store.ask(connection, made.id, requested_by="test", budgeted=False)
        execute(connection, "DELETE FROM outbox WHERE kind = 'verify'")
    verify.verify(site.service._context, made.id)
    assert "segment 0" in site.events("point_damaged")[0]
    assert site.fleet.row("SELECT verified_segments AS n FROM boot_point_disk") == {"n": 1}


def test_a_slip_of_the_way_is_no_damage(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.run()
    slips = [True]
    real = FakeReader.read

    def slipping(self: FakeReader, offset: int, length: int) -> bytes:
        data = real(self, offset, length)
        return bytes(len(data)) if slips and slips.pop() else data

    monkeypatch.setattr(FakeReader, "read", slipping)
    assert site.verify(made) == "verified"
    assert not slips


def test_one_at_a_time_reads_a_point_and_a_dead_worker_lets_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.run()
    pause = site.host.pause_at("read", "called")
    asked = site.ask(made)
    pause.wait()
    assert site.ask(made) == asked
    before = site.fleet.row("SELECT count(*) AS n FROM reference WHERE kind = 'verify'")
    verify.verify(site.service._context, made.id)  # returns at once: somebody reads
    assert before == site.fleet.row("SELECT count(*) AS n FROM reference WHERE kind = 'verify'") == {"n": 1}
    pause.release()
    assert site.ended(asked)["result"] == "verified"
    site.fleet.wait_until(lambda: site.fleet.row("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM reference)"))
    # A worker that died left its mark, which runs out; what looks for due work sends it on.
    with site.fleet.database.transaction() as connection:
        asked = store.ask(connection, made.id, requested_by="test", budgeted=False)
        execute(connection, "DELETE FROM outbox WHERE kind = 'verify'")
        store.hold(connection, asked, new_id(), seconds=3600.0)
        reference.take(connection, made.id, "verify", "dead", seconds=3600.0)
    look(site.service._context)
    assert site.fleet.row("SELECT 1 FROM outbox WHERE kind = 'verify'") is None
    site.execute("UPDATE verification SET held_until = now(), enqueued_at = now() - interval '1 hour'")
    look(site.service._context)
    assert site.ended(asked)["result"] == "verified"


def test_a_worker_that_was_frozen_writes_nothing_once_another_goes_on(site: Site) -> None:
    made = site.run()
    pause = site.host.pause_at("read", "called")
    first = site.ask(made)
    pause.wait()
    # Its hold runs out, another worker reads all of it, and the point is asked for once more, by nobody yet.
    site.execute("UPDATE verification SET held_until = now()")
    verify.verify(site.service._context, made.id)
    assert site.ended(first)["result"] == "verified"
    with site.fleet.database.transaction() as connection:
        store.ask(connection, made.id, requested_by="test", budgeted=False)
        execute(connection, "DELETE FROM outbox WHERE kind = 'verify'")
    pause.release()
    site.fleet.wait_until(lambda: site.fleet.row("SELECT 1 AS yes FROM reference HAVING count(*) = 0"))
    assert site.fleet.row("SELECT verified_segments AS n FROM boot_point_disk") == {"n": 0}
    assert site.fleet.row("SELECT count(*) AS n FROM verification WHERE ended_at IS NULL") == {"n": 1}


def test_a_consolidation_is_waited_for_and_a_merged_point_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "CONSOLIDATION_SECONDS", 0.2)
    first = site.run()
    second = site.run()
    site.execute("UPDATE replica SET consolidating = %s", first.id)
    asked = site.ask(second)
    waiting = "SELECT 1 AS yes FROM verification WHERE id = %s AND waits_for = 'consolidation'"
    site.fleet.wait_until(lambda: site.fleet.row(waiting, asked))
    site.execute("UPDATE replica SET consolidating = NULL")
    assert site.ended(asked)["result"] == "verified"
    with site.fleet.database.transaction() as connection:
        asked = store.ask(connection, first.id, requested_by="test", budgeted=False)
        execute(connection, "UPDATE boot_point SET consolidated_at = now() WHERE id = %s", first.id)
    ended = site.ended(asked)
    assert (ended["result"], ended["problem"]["code"]) == ("failed", "no_such_point")


def test_the_newest_point_is_read_again_when_it_is_due_within_the_bytes_of_a_day(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.run()
    newest = site.run()
    context = site.service._context
    look(context)
    assert site.fleet.row("SELECT 1 FROM verification") is None  # not older than a week
    site.execute("UPDATE boot_point SET committed_at = committed_at - interval '8 days'")
    site.execute("UPDATE job SET spec = jsonb_set(spec, '{check,verify}', '\"never\"')")
    look(context)
    assert site.fleet.row("SELECT 1 FROM verification") is None
    site.execute("UPDATE job SET spec = jsonb_set(spec, '{check,verify}', '\"7d\"')")
    settings = {store.BUDGET_SETTING: 3 * MiB}
    site.execute("UPDATE host SET settings = settings || %s", Jsonb(settings))
    monkeypatch.setattr(verify, "SAVE_SECONDS", 0.0)
    for _ in range(2):
        look(context)
    waiting = "SELECT point_id, not_before > now() AS later FROM verification WHERE waits_for = 'budget'"
    found = site.fleet.wait_until(lambda: site.fleet.row(waiting))
    assert found == {"point_id": newest.id, "later": True}
    assert len(site.events("verify_waits")) == 1
    query = "SELECT verified_segments AS n FROM boot_point_disk WHERE point_id = %s"
    assert site.fleet.row(query, newest.id) == {"n": 2}
    # The next day it goes on where it stopped.
    read: list[int] = []
    real = FakeReader.read

    def counted(self: FakeReader, offset: int, length: int) -> bytes:
        read.append(offset)
        return real(self, offset, length)

    monkeypatch.setattr(FakeReader, "read", counted)
    site.execute("UPDATE verify_day SET day = day - 1")
    site.execute("UPDATE verification SET not_before = now(), enqueued_at = now() - interval '1 hour'")
    look(context)
    verified = "SELECT 1 AS yes FROM boot_point WHERE id = %s AND verified_at IS NOT NULL"
    site.fleet.wait_until(lambda: site.fleet.row(verified, newest.id))
    assert min(read) >= 2 * SEGMENT
    spent = site.fleet.row("SELECT sum(read_bytes)::bigint AS n FROM verify_day")
    assert spent == {"n": len(FILLED) * GRAIN}
    site.execute("UPDATE boot_point SET verified_at = now() WHERE id = %s", newest.id)
    look(context)
    assert site.fleet.row("SELECT count(*) AS n FROM verification") == {"n": 1}


def test_a_person_is_not_held_back_by_the_bytes_of_a_day_but_counts(site: Site) -> None:
    made = site.run()
    site.execute("UPDATE host SET settings = settings || %s", Jsonb({store.BUDGET_SETTING: 1}))
    assert site.verify(made) == "verified"
    assert site.fleet.row("SELECT read_bytes AS n FROM verify_day") == {"n": len(FILLED) * GRAIN}


def test_a_host_that_is_away_puts_a_planned_verification_off_and_fails_one_that_was_asked_for(site: Site) -> None:
    made = site.run()
    site.host.reachable = False
    ended = site.ended(site.ask(made))
    assert (ended["result"], ended["problem"]["code"]) == ("failed", "host_unreachable")
    asked = site.ask(made, budgeted=True)
    waiting = "SELECT 1 AS yes FROM verification WHERE id = %s AND waits_for = 'host_unreachable'"
    site.fleet.wait_until(lambda: site.fleet.row(waiting, asked))
    site.host.reachable = True
    assert site.ask(made) == asked  # a person joins it, and it goes on at once
    assert site.ended(asked)["result"] == "verified"


def test_a_point_that_is_not_there_can_not_be_verified(site: Site) -> None:
    with site.fleet.database.transaction() as connection, pytest.raises(Exception, match="no committed point"):
        store.ask(connection, new_id(), requested_by="test", budgeted=False)
