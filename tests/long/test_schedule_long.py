"""Days of schedules with schedulers that are killed, and three hundred jobs that are due at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

import psycopg
import pytest

from bootpoint_common.store import due as dues
from bootpoint_common.store.database import Database, one_row
from bootpoint_common.store.database import run as execute
from bootpoint_worker.scheduling.round import attend, be_quick
from tests.service.fleet import fleet
from tests.service.process import Server, run, wait_for
from tests.service.rows import Wish, add_host, add_jobs
from tests.service.scheduled import Scene, live, require_one_outcome_each
from tests.service.sharing import share_places

PROGRAM = str(Path(sys.executable).with_name("bootpoint"))

HOURLY = {
    "time_zone": "UTC",
    "schedule": [{"weekly": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "every": "1h"}],
}


@pytest.mark.timeout(900)
def test_days_of_schedules_with_schedulers_that_are_killed(database: str, rng: Random) -> None:
    pool = Database(database, size=4)
    scene = Scene(pool, rng, count=40)
    live(scene, hours=60)
    require_one_outcome_each(scene)
    pool.close()


@pytest.mark.timeout(300)
def test_three_hundred_jobs_share_eight_places_and_none_starves(database: str, tmp_path: Path) -> None:
    with fleet(database, tmp_path) as installation:
        share_places(installation, 300)


def test_runs_go_on_within_ten_seconds_of_a_schedulers_death_or_its_freezing(
    database: str, broker_url: str, tmp_path: Path
) -> None:
    pool = Database(database, size=2)
    with pool.transaction() as connection:
        add_jobs(connection, {"h1": add_host(connection, "h1")}, [Wish(f"job-{n}", HOURLY) for n in range(40)])
    environment = {
        **os.environ,
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_BROKER_URL": broker_url,
        "BOOTPOINT_STATE": str(tmp_path),
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "BOOTPOINT_METRICS": "off",
    }
    run([PROGRAM, "db", "migrate"], environment=environment)
    started = [Server([PROGRAM, "scheduler"], log=tmp_path / f"{n}.log", environment=environment) for n in range(3)]
    for number, server in enumerate(started):
        server.start(partial(_says, tmp_path / f"{number}.log"), "a scheduler")
    try:
        for strike in (started[0].kill, started[1].freeze):
            _all_due_within(pool, 10.0, strike)
    finally:
        started[1].thaw()
        for server in started:
            server.stop()
        pool.close()


def _says(log: Path) -> bool:
    return b"scheduler runs" in log.read_bytes()


def _all_due_within(database: Database, seconds: float, strike: Callable[[], None]) -> None:
    """Strike while all jobs come due, and require their runs in time."""
    with database.transaction() as connection:
        execute(connection, "UPDATE run SET state = 'failed', ended_at = now() WHERE state = 'waiting'")
        execute(connection, "UPDATE due SET at = now() WHERE kind = 'schedule'")
    strike()

    def made() -> bool:
        with database.transaction() as connection:
            return int(one_row(connection, "SELECT count(*) AS n FROM run WHERE state = 'waiting'")["n"]) == 40

    wait_for(made, "all runs", seconds)


def test_a_scheduler_that_freezes_amid_a_round_lets_go_of_its_rows(database: str) -> None:
    pool, frozen = Database(database, size=2), Database(database, size=1)
    with pool.transaction() as connection:
        add_jobs(connection, {"h1": add_host(connection, "h1")}, [Wish("erp", HOURLY)])
    attend(pool, origin="test")
    now = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        _freeze(frozen, pool, now)
    pool.close()
    frozen.close()


def _freeze(frozen: Database, other: Database, now: datetime) -> None:
    """Let one scheduler take a row and do nothing any more, until another one has it; then let it go on."""
    with frozen.transaction() as connection:
        be_quick(connection)
        assert len(dues.take(connection, now, 10)) == 1
        assert attend(other, origin="test", now=now) == 0
        wait_for(lambda: attend(other, origin="test", now=now), "the row", 10.0)
        connection.execute(b"SELECT 1")
