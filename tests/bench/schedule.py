"""Ten thousand jobs that are due in one minute: how long until each run is admitted or in line, and what that takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bootpoint_common.store.database import Database, one_row, rows
from bootpoint_common.store.database import run as execute
from tests.bench.rig import Rig
from tests.bench.usage import cpu_seconds, own_memory
from tests.service.process import wait_for
from tests.service.processes import processes
from tests.service.rows import Wish, add_host, add_jobs

#: Jobs, the hosts that they share, and the places of each.
JOBS, HOSTS, PLACES = 10_000, 50, 8

#: Longest that is waited, in seconds.
PATIENCE = 120.0

#: Seconds from the last preparation until the jobs are due.
AHEAD = 3.0

_NIGHTLY = {"time_zone": "Europe/Rome", "schedule": [{"weekly": ["sun"], "window": ["03:00", "05:00"], "every": "1h"}]}


@dataclass(frozen=True, slots=True)
class Storm:
    """What was seen.

    Attributes:
        planned: Seconds until all jobs had their next run planned.
        seconds: From the minute on until all runs were admitted or in line.
        promised: Runs that had the promise of their places, or were running, by then.
        cpu: Processor seconds of the scheduler until then.
        memory: The most memory of the scheduler's own, in bytes.
        next_line: Seconds that the promises for places take that are free again, with the others in line.
        listed: Seconds that the state of all jobs takes to read.
    """

    planned: float
    seconds: float
    promised: int
    cpu: float
    memory: int
    next_line: float
    listed: float


def storm(made: Rig) -> Storm:
    """Let ten thousand jobs be due at once, with one scheduler process."""
    name = made.postgres.create_database()
    url = made.postgres.url(name)
    with processes(url, made.broker.create_vhost(), made.fleet.libvirt, made.fleet.storage) as fleet:
        _fill(fleet.database)
        began = time.monotonic()
        pid = fleet.add_scheduler("scheduler").pid
        wait_for(lambda: not _count(fleet.database, "job WHERE NOT planned"), "all plans", PATIENCE)
        planned = time.monotonic() - began
        before, most = cpu_seconds(pid), own_memory(pid)
        with fleet.database.transaction() as connection:
            execute(connection, "UPDATE due SET at = now() + make_interval(secs => %s)", AHEAD)
        due = time.monotonic() + AHEAD

        def all_there() -> bool:
            nonlocal most
            most = max(most, own_memory(pid))
            return _count(fleet.database, "run") == JOBS

        wait_for(all_there, "all runs", PATIENCE)
        seconds, cpu = time.monotonic() - due, cpu_seconds(pid) - before
        wait_for(lambda: _promised(fleet.database) == HOSTS * PLACES, "all promises", PATIENCE)
        promised = _promised(fleet.database)
        next_line = _free_places(fleet.database)
        began = time.monotonic()
        with fleet.database.transaction() as connection:
            assert len(rows(connection, "SELECT * FROM v_job")) == JOBS
        return Storm(planned, seconds, promised, cpu, most, next_line, time.monotonic() - began)


def _fill(database: Database) -> None:
    with database.transaction() as connection:
        hosts = {f"h{number}": add_host(connection, f"h{number}", places=PLACES) for number in range(HOSTS)}
        for number, (name, host_id) in enumerate(hosts.items()):
            wishes = [Wish(f"job-{number}-{job}", _NIGHTLY) for job in range(JOBS // HOSTS)]
            add_jobs(connection, {name: host_id}, wishes)


def _free_places(database: Database) -> float:
    """Let the runs that have the promise of a place end; return the seconds until others have it."""
    began = time.monotonic()
    with database.transaction() as connection:
        execute(
            connection,
            "UPDATE run SET state = 'failed', ended_at = now() WHERE state = 'waiting' AND enqueued_at IS NOT NULL",
        )
    wait_for(lambda: _promised(database) == HOSTS * PLACES, "the next promises", PATIENCE)
    return time.monotonic() - began


def _promised(database: Database) -> int:
    return _count(database, "run WHERE state = 'running' OR (state = 'waiting' AND enqueued_at IS NOT NULL)")


def _count(database: Database, what: str) -> int:
    with database.transaction() as connection:
        return int(one_row(connection, f"SELECT count(*) AS n FROM {what}")["n"])
