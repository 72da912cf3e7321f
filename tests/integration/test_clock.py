"""Clocks that are wrong: a source's by a day, a worker's by a day. What counts is the database's."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from bootpoint_common.units import KiB
from bootpoint_producer import present
from bootpoint_producer.snapshots import joint
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import Fleet


class Off(datetime):
    """A clock that is a day ahead, or behind."""

    days = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # a plain one, that isn't off again
        return datetime.now(tz) + timedelta(days=cls.days)


@pytest.mark.parametrize("days", [1, -1])
def test_a_source_whose_clock_is_off_by_a_day_is_protected_its_points_have_the_right_time_and_it_is_said(
    days: int, installation: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Off, "days", days)
    monkeypatch.setattr(joint, "datetime", Off)
    monkeypatch.setattr(present, "datetime", Off)
    disk, host = tmp_path / "system.raw", f"fake-{tmp_path.name}"
    disk.write_bytes(b"x" * (256 * KiB))
    installation.add_worker("w1")
    host_id = installation.add_host(host)
    installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    for _ in range(2):
        before = datetime.now(UTC).replace(microsecond=0)
        installation.wait(installation.run(job_id), seconds=20)
        newest = installation.points(job_id)[-1]
        # The second one begins within the second of the first, perhaps: then it is called after the next.
        assert before <= newest.instant <= datetime.now(UTC) + timedelta(seconds=2)
    replica = installation.row("SELECT id FROM replica")
    assert replica is not None
    assert FakeHost.at(host).content(replica["id"], newest.id, "system") == disk.read_bytes()
    told = installation.rows("SELECT agent, text, code FROM event WHERE kind = 'clock_skew' ORDER BY id")
    assert [(row["agent"], row["code"]) for row in told] == [("erp", "clock_skew")] * 2
    # A day, less what the run took until its offer was heard.
    said = re.compile(rf"the clock of erp is (1 d|23 h 5\d min) {'ahead' if days > 0 else 'behind'}")
    assert all(said.fullmatch(row["text"]) for row in told), told
    age = installation.row("SELECT newest_point_age_seconds AS age FROM v_job")
    assert age is not None
    assert -2 <= age["age"] < 60
