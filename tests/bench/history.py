"""How long status and pages of the history take with 10,000 jobs and 1,000,000 events."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bootpoint_common.store import history
from bootpoint_common.store.database import Connection, Database
from bootpoint_common.store.history import Question, Sort
from bootpoint_ops import dashboard
from tests.bench.rig import Rig
from tests.service import crowd

#: Rounds of each measurement; the first isn't counted.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured.

    Attributes:
        status: Seconds of what ``status`` asks the database, median.
        command: Seconds of the whole command, median.
        bad: Jobs that it found not ok.
        pages: Milliseconds of a page, median, by sort and place.
    """

    status: float
    command: float
    bad: int
    pages: dict[str, float]


def measure(rig: Rig, directory: Path) -> Found:
    """Fill a database and ask it."""
    name = rig.postgres.create_database()
    url = rig.postgres.url(name)
    began = time.monotonic()
    crowd.crowd(url)
    print(f"  {crowd.JOBS} jobs and {crowd.EVENTS} events made in {time.monotonic() - began:.0f} s", flush=True)
    database = Database(url, size=1)
    try:
        with database.transaction() as connection:
            history.count_hours(connection, datetime.now(UTC))
            history.set_milestones(connection, datetime.now(UTC))
        with database.transaction() as connection:
            bad = len(dashboard.status(connection)["items"])
            status = _median(lambda: dashboard.status(connection))
            pages = _pages(connection)
        return Found(status, _median(lambda: _command(url, directory)), bad, pages)
    finally:
        database.close()
        rig.postgres.drop_database(name)


def _pages(connection: Connection) -> dict[str, float]:
    """Return the milliseconds of pages at both ends and between by every sort, both ways."""
    found = {}
    last = history.page(connection, Question(), 1).pages
    places = {"first": 1, "second": 2, "quarter": last // 4, "middle": last // 2, "last": last}
    for sort in Sort:
        for descending in (True, False):
            asked = Question(sort=sort, descending=descending)
            way = "desc" if descending else "asc"
            for place, number in places.items():
                found[f"{sort}:{way}, {place}"] = 1000 * _median(lambda: history.page(connection, asked, number))  # noqa: B023
    asked = Question(job="job-77", sort=Sort.KIND)
    found["kind of a job, first"] = 1000 * _median(lambda: history.page(connection, asked, 1))
    return found


def _command(url: str, directory: Path) -> None:
    program = str(Path(sys.executable).with_name("bootpoint"))
    environment = {**os.environ, "BOOTPOINT_DATABASE_URL": url, "BOOTPOINT_STATE": str(directory / "state")}
    done = subprocess.run([program, "status"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return sorted(seconds[1:])[len(seconds[1:]) // 2]
