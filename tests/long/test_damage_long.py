"""Damage all over a disk, beyond every limit of what is read, named and asked for at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from bootpoint_common.digest import SEGMENT, SEGMENT_GRAINS
from bootpoint_common.store import verification as store
from bootpoint_common.units import GRAIN
from bootpoint_worker import damaged, neighbour, repair, verify
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import fleet

#: More segments than are read back before a commit, named in a report, and read twice at a time.
SEGMENTS = 70


def _write(disk: Path, rng: random.Random, grains: Iterable[int]) -> None:
    with disk.open("r+b") as stream:
        for grain in grains:
            stream.seek(grain * GRAIN)
            stream.write(rng.randbytes(GRAIN))


@pytest.mark.long
def test_damage_beyond_every_limit_is_marked_and_repaired(database: str, tmp_path: Path, rng: random.Random) -> None:
    assert max(verify.SUSPECTS, damaged.NAMED, repair.READ_BACK) < SEGMENTS
    assert SEGMENTS * 3 > neighbour.READINGS
    disk = tmp_path / "system.raw"
    disk.touch()
    os.truncate(disk, SEGMENTS * SEGMENT)
    _write(disk, rng, range(0, SEGMENTS * SEGMENT_GRAINS, SEGMENT_GRAINS))
    with fleet(database, tmp_path) as made:
        made.add_worker("w1")
        host_id = made.add_host(f"fake-{tmp_path.name}")
        host = FakeHost.at(f"fake-{tmp_path.name}")
        made.add_agent("erp", [disk])
        job = made.add_job("erp", "erp", {"system": disk}, host_id)
        for grain in (5, 6, 7, 8):
            _write(disk, rng, [grain])
            made.wait(made.run(job))
        first, *others = made.points(job)
        for segment in range(SEGMENTS):
            host.rot(first.replica_id, first.id, "system", segment * SEGMENT + 9)

        def result(point_id: object) -> object:
            query = "SELECT result FROM verification WHERE point_id = %s AND ended_at IS NOT NULL ORDER BY id DESC"
            return (made.wait_until(lambda: made.row(query, point_id), 120.0))["result"]

        with made.database.transaction() as connection:
            store.ask(connection, first.id, requested_by="test", budgeted=False)
        assert result(first.id) == "damaged"
        counts = made.rows("SELECT count(*) AS n, count(grains) AS named FROM damage GROUP BY point_id ORDER BY 2, 1")
        assert {row["n"] for row in counts} >= {SEGMENTS}
        assert len(counts) == 1 + len(others)
        named = made.row("SELECT count(grains) AS n FROM damage WHERE point_id = %s", first.id)
        assert named is not None
        assert 0 < named["n"] <= damaged.NAMED
        grains = made.rows("SELECT segment, grains FROM damage WHERE grains IS NOT NULL")
        assert all(row["grains"] == [row["segment"] * SEGMENT_GRAINS] for row in grains)
        # The next run brings everything again; what the commit didn't read back is verified at once.
        made.wait(made.run(job), seconds=300.0)
        newest = made.points(job)[-1]
        assert host.content(newest.replica_id, newest.id, "system") == disk.read_bytes()
        assert result(newest.id) == "verified"
