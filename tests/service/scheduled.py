"""Schedules on a simulated clock: schedulers that die between any two statements, outages, runs that fail.

What comes out is compared with what an almanac says was due (`tests.service.almanac`): each start has become exactly
one thing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from bootpoint_common import job as jobs
from bootpoint_common.store import retry
from bootpoint_common.store.database import Connection, Database, Row, rows, run
from bootpoint_worker.scheduling.round import attend
from tests.service.almanac import due_between
from tests.service.rows import Wish, add_host, add_jobs

#: When the simulated time begins: many zones change their clocks on the next day.
BEGIN = datetime(2026, 3, 28, 12, tzinfo=UTC)

#: How often a scheduler dies at a statement.
DEADLINESS = 0.01

#: Schedulers that work at a time.
SCHEDULERS = 3

_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_ZONES = ["Europe/Rome", "Antarctica/Troll", "Asia/Beirut", "America/Sao_Paulo", "Australia/Lord_Howe", "UTC"]


class Died(BaseException):
    """What a scheduler raises where it is killed: nothing below may clean up."""


class Frail:
    """A connection that dies before or after a statement, at random."""

    def __init__(self, connection: Connection, rng: Random) -> None:
        self._connection, self._rng = connection, rng

    def execute(self, *arguments: Any) -> Any:
        """Run a statement, or die."""
        self._perhaps_die()
        done = self._connection.execute(*arguments)
        self._perhaps_die()
        return done

    def _perhaps_die(self) -> None:
        if self._rng.random() < DEADLINESS:
            raise Died

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class FrailDatabase(Database):
    """A database whose client dies, at random, within a transaction or after it."""

    def __init__(self, url: str, rng: Random) -> None:
        super().__init__(url, size=2)
        self._rng = rng

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run a block in one transaction, as far as it gets."""
        with super().transaction() as connection:
            yield Frail(connection, self._rng)  # type: ignore[misc]
        if self._rng.random() < DEADLINESS:
            raise Died


@dataclass
class Scene:
    """Jobs, schedulers and the clock.

    Attributes:
        database: The truth.
        rng: Of everything random.
        count: How many jobs.
        now: What all clocks show.
        deaths: How many schedulers have died.
    """

    database: Database
    rng: Random
    count: int
    now: datetime = BEGIN
    deaths: int = 0
    specs: dict[int, jobs.Spec] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        with self.database.transaction() as connection:
            host = add_host(connection, "h1")
            wishes = [Wish(f"job-{number}", self._job()) for number in range(self.count)]
            made = add_jobs(connection, {"h1": host}, wishes)
            found = rows(connection, "SELECT id, spec FROM job ORDER BY id")
        assert len(made) == len(found)
        self.specs = {row["id"]: jobs.read_json(row["spec"]) for row in found}
        attend(self.database, origin="first", now=self.now)

    def _job(self) -> dict[str, Any]:
        rng = self.rng
        schedules: list[dict[str, Any]] = []
        for _ in range(rng.randint(1, 2)):
            days = rng.choice(({"weekly": _DAYS}, {"monthly": [28, 29, 30, "last"]}))
            start, end = rng.sample(range(48), 2)
            window = [f"{start // 2:02}:{start % 2 * 30:02}", f"{end // 2:02}:{end % 2 * 30:02}"]
            if window[1] == "00:00":
                window[1] = "24:00"
            every = {"every": rng.choice(("30m", "10m", "25m"))} if rng.random() < 0.6 else {}
            schedules.append({**days, "window": window, **every})
        catch_up = rng.choice(("24h", "3h", "20m"))
        return {"time_zone": rng.choice(_ZONES), "schedule": schedules, "run": {"catch_up": catch_up}}

    # --- what goes on

    def pass_time(self, longest: float) -> None:
        """Let some time go by, at most so many seconds."""
        self.now += timedelta(seconds=self.rng.uniform(1, longest))

    def let_schedulers_work(self) -> None:
        """Let several schedulers deal at once with what is due, each in a thread; who dies is replaced."""
        seeds = [self.rng.random() for _ in range(SCHEDULERS)]
        threads = [threading.Thread(target=self._work, args=(Random(seed),)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, rng: Random) -> None:
        frail = FrailDatabase(self.database.url, rng)
        try:
            while True:
                try:
                    if not attend(frail, origin="frail", now=self.now, chance=rng.random):
                        return
                except Died:
                    with self._lock:
                        self.deaths += 1
        finally:
            frail.close()

    def let_runs_end(self) -> None:
        """Let runs under way end, most of them well, some in a way that is tried again."""
        with self.database.transaction() as connection:
            for row in rows(connection, "SELECT uid FROM run WHERE state = 'waiting' ORDER BY id"):
                if self.rng.random() < 0.6:
                    failed = self.rng.random() < 0.2
                    state, retryable = ("failed", True) if failed else ("succeeded", None)
                    run(
                        connection,
                        "UPDATE run SET state = %s, retryable = %s, ended_at = %s WHERE uid = %s",
                        *(state, retryable, self.now, row["uid"]),
                    )
                    retry.follow(connection, row["uid"])

    # --- what came of it

    def outcomes(self, job_id: int) -> Counter[datetime]:
        """Return how many things each start of a job's schedules has become."""
        spec = self.specs[job_id]
        starts = due_between(spec.schedules, BEGIN, self.now, ZoneInfo(spec.time_zone or "UTC"))
        found: Counter[datetime] = Counter(dict.fromkeys(starts, 0))
        for first, last, count in self._streaks(job_id):
            covered = [at for at in starts if first <= at <= last]
            assert len(covered) == count, f"job {job_id}: {count} of {covered} from {first} to {last}"
            found.update(covered)
        return found

    def _streaks(self, job_id: int) -> Iterator[tuple[datetime, datetime, int]]:
        """Yield first, last and number of the starts that each run, made or skipped, stands for."""
        for row in self.rows(_RUNS, job_id):
            if row["trigger"] == "schedule" and row["reason"] != "missed":
                yield row["due_at"], row["due_at"], 1
            for streak in ("made_up", "missed"):
                if streak in (row["details"] or {}):
                    yield _read(row["details"][streak])
        for row in self.rows("SELECT details FROM due WHERE job_id = %s AND kind = 'catch_up'", job_id):
            yield _read(row["details"])

    def rows(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a query."""
        with self.database.transaction() as connection:
            return rows(connection, query, *arguments)


_RUNS = """
SELECT r.trigger, r.reason, r.due_at, e.details FROM run r
JOIN event e ON e.run = r.id AND e.kind IN ('run_requested', 'run_skipped') WHERE r.job_id = %s ORDER BY r.id
"""


def _read(streak: dict[str, Any]) -> tuple[datetime, datetime, int]:
    return datetime.fromisoformat(streak["first"]), datetime.fromisoformat(streak["last"]), streak["count"]


def live(scene: Scene, hours: float) -> None:
    """Let so much time go by, with schedulers that die and outages of all of them."""
    end = scene.now + timedelta(hours=hours)
    while scene.now < end:
        outage = scene.rng.random() < 0.03
        scene.pass_time(8 * 3600 if outage else 900)
        scene.let_schedulers_work()
        scene.let_runs_end()


def require_one_outcome_each(scene: Scene) -> None:
    """Require that each start of each job's schedules up to now has become exactly one thing."""
    for job_id in scene.specs:
        wrong = {at: times for at, times in scene.outcomes(job_id).items() if times != 1}
        assert not wrong, f"job {job_id}: {wrong}\n{scene.specs[job_id].schedules}"
