"""Many jobs that are due at once, and a host with eight places."""

from __future__ import annotations

from bootpoint_common.errors import Code, error
from bootpoint_common.store import due as dues
from bootpoint_common.store import ending
from bootpoint_common.store.database import Connection, present, rows
from bootpoint_common.store.due import Kind
from tests.service.fleet import Fleet
from tests.service.process import wait_for
from tests.service.rows import Wish, add_jobs

#: Places of the host.
PLACES = 8

NIGHTLY = {"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "window": ["03:00", "04:00"]}]}


def share_places(installation: Fleet, count: int) -> None:
    """Let so many jobs be due at once, and require that they take turns: never too many, none before its turn."""
    host = installation.add_host("h1")
    with installation.database.transaction() as connection:
        _be_due(connection, add_jobs(connection, {"h1": host}, [Wish(f"job-{n}", NIGHTLY) for n in range(count)]))
    installation.add_worker("w1", slices=4)
    most = 0
    begun: list[int] = []

    def all_done() -> bool:
        """See which agents were told to make a snapshot; once all places are taken, let those runs end."""
        nonlocal most
        with installation.database.transaction() as connection:
            found = rows(connection, "SELECT id, uid FROM run WHERE state = 'running' ORDER BY started_at")
            most = max(most, len(found))
            begun.extend(row["id"] for row in found if row["id"] not in begun)
            if len(found) >= PLACES or len(begun) == count:
                for row in found:
                    ending.end(connection, row["uid"], error(Code.SCRIPT_FAILED, "done"), actor="test")
        return len(begun) == count and not found

    wait_for(all_done, "the end of all runs", 120)
    assert most == PLACES
    # Who came first was served first, but for those that were promised their places together.
    assert all(abs(place - number) < 2 * PLACES for place, number in enumerate(begun, start=1))
    ended = installation.rows("SELECT state, reason, count(*) AS n FROM run GROUP BY 1, 2")
    assert ended == [{"state": "failed", "reason": "script_failed", "n": count}]


def _be_due(connection: Connection, made: dict[str, int]) -> None:
    now = present(connection)
    for job_id in made.values():
        dues.plan(connection, job_id)
        dues.put(connection, job_id, Kind.SCHEDULE, now)
