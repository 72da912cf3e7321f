"""Runs that start by themselves, as rows: planned, due, skipped, retried, paused, and the line in which they wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import due as dues
from bootpoint_common.store import line, retry
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Database, Row, one_row, rows
from bootpoint_common.store.database import run as execute
from bootpoint_ops import job as jobs
from bootpoint_ops import pause as pauses
from bootpoint_worker.scheduling import event
from bootpoint_worker.scheduling.round import attend
from tests.service.rows import Wish, add_host, add_jobs

#: A Thursday.
NOON = datetime(2026, 12, 3, 12, tzinfo=UTC)

DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
HOURLY = {
    "time_zone": "UTC",
    "schedule": [{"weekly": DAY, "every": "1h"}],
    "notify": {"mail": {"to": ["ops@example.org"]}},
}


@dataclass
class Site:
    """A database with a job that runs every hour, planned at a quarter to noon."""

    database: Database
    job: int

    def attend(self, **after: float) -> None:
        """Let a scheduler do all there is at an instant."""
        while attend(self.database, origin="test", now=NOON + timedelta(**after), chance=lambda: 0.5):
            pass

    def end(self, number: int, state: str, *, code: Code | None = None, **after: float) -> None:
        """Let a run end."""
        problem = None if code is None else error(code, "it failed")
        with self.database.transaction() as connection:
            row = one_row(
                connection,
                "UPDATE run SET state = %s, reason = %s, retryable = %s, ended_at = %s WHERE id = %s RETURNING uid",
                state,
                code,
                problem and problem.retryable,
                NOON + timedelta(**after),
                number,
            )
            retry.follow(connection, row["uid"])

    def runs(self) -> list[tuple[Any, ...]]:
        """Return number, trigger, state, reason and minutes after noon of every run."""
        query = "SELECT id, trigger, state, reason, due_at FROM run ORDER BY id"
        return [
            (row["id"], row["trigger"], row["state"], row["reason"], (row["due_at"] - NOON) / timedelta(minutes=1))
            for row in self.rows(query)
        ]

    def events(self, *kinds: str) -> list[str]:
        """Return the texts of events of these kinds."""
        found = self.rows("SELECT text FROM event WHERE kind = ANY(%s) ORDER BY id", list(kinds))
        return [row["text"] for row in found]

    def due(self) -> dict[str, float]:
        """Return what is to start by itself, in minutes after noon."""
        found = self.rows("SELECT kind, at FROM due WHERE job_id = %s", self.job)
        return {row["kind"]: (row["at"] - NOON) / timedelta(minutes=1) for row in found}

    def shown(self) -> Row:
        """Return the job as outside checks see it."""
        return self.rows("SELECT * FROM v_job WHERE id = %s", self.job)[0]

    def rows(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a query."""
        with self.database.transaction() as connection:
            return rows(connection, query, *arguments)


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    pool = Database(database, size=4)
    with pool.transaction() as connection:
        host = add_host(connection, "h1")
        job = add_jobs(connection, {"h1": host}, [Wish("erp", HOURLY)])["erp"]
    made = Site(pool, job)
    made.attend(minutes=-15)
    yield made
    pool.close()


def test_a_job_runs_when_its_schedule_says(site: Site) -> None:
    assert site.due() == {"schedule": 0}
    assert site.shown()["next_run_at"] == NOON
    site.attend(minutes=-1)
    assert site.runs() == []
    site.attend(seconds=1)
    assert site.runs() == [(1, "schedule", "waiting", None, 0)]
    assert site.shown()["next_run_at"] == NOON + timedelta(hours=1)


def test_a_run_that_is_due_while_the_job_runs_is_written_down_as_skipped(site: Site) -> None:
    site.attend()
    site.attend(minutes=60)
    assert site.runs()[1:] == [(2, "schedule", "skipped", "already_running", 60)]
    assert site.events("run_skipped") == ["job erp had run 1 under way"]
    assert site.due() == {"schedule": 120}
    assert site.shown()["last_run"] is None  # nothing has run to its end


def test_an_outage_ends_with_one_run(site: Site) -> None:
    site.attend(hours=5, minutes=10)
    assert site.due() == {"catch_up": 313, "schedule": 360}
    assert site.runs() == []
    site.attend(hours=5, minutes=13)
    site.attend(hours=6)
    assert site.runs() == [(1, "catch_up", "waiting", None, 313), (2, "schedule", "skipped", "already_running", 360)]


def test_runs_that_were_missed_for_too_long_are_written_down(site: Site) -> None:
    site.attend(hours=30, minutes=10)
    assert site.runs() == [(1, "schedule", "skipped", "missed", 0)]
    (text,) = site.events("run_skipped")
    assert "7 runs that were due from 2026-12-03 12:00:00 UTC to 2026-12-03 18:00:00 UTC" in text
    assert site.rows("SELECT kind, address FROM notification") == [{"kind": "run_missed", "address": "ops@example.org"}]
    assert set(site.due()) == {"catch_up", "schedule"}


def test_a_job_that_can_not_be_read_holds_up_no_other(site: Site) -> None:
    with site.database.transaction() as connection:
        hosts = {row["name"]: row["id"] for row in rows(connection, "SELECT name, id FROM host")}
        add_jobs(connection, hosts, [Wish("odd", HOURLY)])
        execute(connection, "UPDATE job SET spec = spec || '{\"time_zone\": \"Mars/Olympus\"}' WHERE name = 'odd'")
    site.attend()
    site.attend(minutes=10)
    assert [run[1] for run in site.runs()] == ["schedule"]
    assert len(site.events("schedule_unreadable")) == 2


def test_a_failure_that_may_pass_is_tried_again_three_times(site: Site) -> None:
    site.attend()
    for attempt in range(1, 5):
        site.end(attempt, "failed", code=Code.HOST_UNREACHABLE, minutes=attempt * 6)
        site.attend(minutes=attempt * 6 + 4)
        assert len(site.runs()) == attempt
        site.attend(minutes=attempt * 6 + 5)
    assert [run[1:4] for run in site.runs()] == [
        ("schedule", "failed", "host_unreachable"),
        *[("retry", "failed", "host_unreachable")] * 3,
    ]
    assert [row["attempt"] for row in site.rows("SELECT attempt FROM run ORDER BY id")] == [1, 2, 3, 4]
    assert site.due() == {"schedule": 60}


@pytest.mark.parametrize(
    ("state", "code"), [("failed", Code.HOST_FULL), ("cancelled", Code.CANCELLED), ("succeeded", None)]
)
def test_what_does_not_pass_by_itself_is_not_tried_again(site: Site, state: str, code: Code | None) -> None:
    site.attend()
    site.end(1, state, code=code, minutes=1)
    assert site.due() == {"schedule": 60}


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_another_attempt_is_taken_back_by_a_success_or_a_cancel(site: Site, state: str) -> None:
    site.attend()
    site.end(1, "failed", code=Code.HOST_UNREACHABLE, minutes=1)
    assert set(site.due()) == {"retry", "schedule"}
    with site.database.transaction() as connection:
        runs.create(connection, site.job, trigger="manual", requested_by="ann")
    site.end(2, state, minutes=2)
    assert set(site.due()) == {"schedule"}
    assert site.events("retry_dropped") == [f"attempt 2 is not made: run 2 {state}"]


def test_another_attempt_is_not_made_beside_a_run_of_the_job(site: Site) -> None:
    site.attend()
    site.end(1, "failed", code=Code.HOST_UNREACHABLE, minutes=55)  # tried again when the next run is due
    site.attend(minutes=60)
    assert [run[1] for run in site.runs()] == ["schedule", "schedule"]
    assert set(site.due()) == {"schedule"}
    assert len(site.events("retry_dropped")) == 1


def test_a_disabled_job_runs_by_hand_only(site: Site) -> None:
    site.attend()
    with site.database.transaction() as connection:
        jobs.switch(connection, "erp", enabled=False, actor="ann")
    assert site.shown()["next_run_at"] is None
    site.end(1, "failed", code=Code.HOST_UNREACHABLE, minutes=1)
    site.attend(hours=30)
    assert len(site.runs()) == 1
    with site.database.transaction() as connection:
        began = event.start(connection, site.job, event="restart", deadline_seconds=None, actor="ups", origin="x")
        assert began is None
        assert runs.create(connection, site.job, trigger="manual", requested_by="ann").state == "waiting"


def future(**more: float) -> datetime:
    """Return an instant to come by the database's clock, which pauses go by."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**more)


def test_a_paused_job_waits_and_goes_on_by_itself(site: Site) -> None:
    until = future(hours=2).replace(minute=0, second=0)
    with site.database.transaction() as connection:
        pauses.pause(connection, "erp", until=until, reason="new disks", actor="ann")
    assert (site.shown()["state"], site.shown()["state_reason"]) == ("paused", "new disks")
    assert site.shown()["next_run_at"] == until  # a start at its end is one after it
    attend(site.database, origin="test", now=until - timedelta(seconds=1))
    assert site.runs() == []
    attend(site.database, origin="test", now=until)
    assert len(site.runs()) == 1
    assert site.events("job_paused", "job_resumed") == [
        f"job erp is paused until {until:%Y-%m-%d %H:%M:%S} UTC: new disks",
        "the pause of job erp is over",
    ]


@pytest.mark.parametrize("how", ["pause", "disable"])
@pytest.mark.parametrize("trigger", ["schedule", "manual"])
def test_who_is_paused_or_disabled_leaves_the_line_unless_somebody_asked_for_the_run(
    site: Site, trigger: str, how: str
) -> None:
    with site.database.transaction() as connection:
        begun = runs.create(connection, site.job, trigger=trigger, requested_by="ann")
    with site.database.transaction() as connection:
        if how == "pause":
            pauses.pause(connection, "erp", until=future(days=9), reason="new disks", actor="ann")
        else:
            jobs.switch(connection, "erp", enabled=False, actor="ann")
    (row,) = site.rows("SELECT id, state, reason, message FROM run")
    words = "ann paused job erp: new disks" if how == "pause" else "ann disabled job erp"
    left = {"state": "cancelled", "reason": "cancelled", "message": words}
    stays = {"state": "waiting", "reason": None, "message": None}
    assert row == {"id": begun.id, **(left if trigger == "schedule" else stays)}


def test_enabling_a_job_ends_its_pause(site: Site) -> None:
    with site.database.transaction() as connection:
        pauses.pause(connection, "erp", until=future(days=9), reason="new disks", actor="ann")
        jobs.switch(connection, "erp", enabled=True, actor="bob")
    assert site.shown()["state"] == "never"
    assert site.shown()["next_run_at"] < future(hours=2)
    assert site.events("job_resumed") == ["the pause of job erp was ended"]


@pytest.mark.parametrize("until", [timedelta(seconds=-1), timedelta(days=-1)])
def test_a_pause_in_the_past_is_refused(site: Site, until: timedelta) -> None:
    with site.database.transaction() as connection, pytest.raises(BootpointError, match="over already"):
        pauses.pause(connection, "erp", until=datetime.now(UTC) + until, reason="x", actor="ann")


def test_a_run_that_is_due_survives_a_change_of_the_job(site: Site) -> None:
    with site.database.transaction() as connection:
        dues.plan(connection, site.job, NOON + timedelta(seconds=1))
    assert site.due() == {"schedule": 0}
    with site.database.transaction() as connection:
        execute(connection, "UPDATE job SET spec = jsonb_set(spec, '{schedule,0,window}', '[\"12:30\", \"24:00\"]')")
        dues.plan(connection, site.job, NOON + timedelta(seconds=1))
    assert site.due() == {"schedule": 30}


def begin(site: Site, number: int) -> None:
    with site.database.transaction() as connection:
        execute(connection, "UPDATE run SET state = 'running' WHERE id = %s", number)


def test_the_run_of_an_event_waits_for_the_jobs_run_to_end(site: Site) -> None:
    site.attend()
    begin(site, 1)
    with site.database.transaction() as connection:
        made = event.start(connection, site.job, event="shutdown", deadline_seconds=3600, actor="ups", origin="ups1")
    assert made is None
    now = datetime.now(UTC)
    attend(site.database, origin="test", now=now)
    assert [run[2] for run in site.runs()] == ["running"]
    site.end(1, "succeeded")
    attend(site.database, origin="test", now=now)
    row = site.rows("SELECT * FROM run ORDER BY id")[1]
    assert (row["trigger"], row["state"], row["last_breath"], row["requested_by"]) == ("event", "waiting", True, "ups")
    assert timedelta(minutes=14) < row["begin_by"] - now < timedelta(minutes=15, seconds=1)


def test_the_run_of_an_event_is_given_up_when_its_deadline_is_over(site: Site) -> None:
    site.attend()
    begin(site, 1)
    with site.database.transaction() as connection:
        event.start(connection, site.job, event="shutdown", deadline_seconds=60, actor="ups", origin="ups1")
    attend(site.database, origin="test", now=datetime.now(UTC) + timedelta(seconds=20))
    assert ("event", "skipped", "deadline") in [run[1:4] for run in site.runs()]
    assert "event" not in site.due()


def test_an_event_hastens_a_run_that_stands_in_the_line(site: Site) -> None:
    site.attend()
    with site.database.transaction() as connection:
        made = event.start(connection, site.job, event="shutdown", deadline_seconds=60, actor="ups", origin="ups1")
    assert made is not None
    assert (made.id, made.last_breath) == (1, True)
    assert len(site.runs()) == 1


# --- the line


def promised(site: Site) -> list[str]:
    """Make promises, and return the jobs that have one."""
    with site.database.transaction() as connection:
        line.admit(connection)
        found = rows(connection, "SELECT job_name FROM run WHERE enqueued_at IS NOT NULL AND state = 'waiting'")
    return sorted(row["job_name"] for row in found)


def stand(
    site: Site, name: str, *, minutes: float = 0, agent: str | None = None, hosts: tuple[str, ...] = ("a",)
) -> None:
    """Put a run of a new job into the line."""
    with site.database.transaction() as connection:
        known = {row["name"]: row["id"] for row in rows(connection, "SELECT id, name FROM host")}
        for host in hosts:
            if host not in known:
                known[host] = add_host(connection, host, places=1)
        job = add_jobs(connection, {host: known[host] for host in hosts}, [Wish(name, {}, agent)])[name]
        made = runs.create(connection, job, trigger="manual", requested_by="test")
        execute(connection, "UPDATE run SET due_at = %s WHERE uid = %s", NOON + timedelta(minutes=minutes), made.uid)


def free(site: Site, job: str) -> None:
    """Let a job's run end."""
    with site.database.transaction() as connection:
        execute(connection, "UPDATE run SET state = 'failed', ended_at = now() WHERE job_name = %s", job)


def shown(site: Site, job: str) -> str | None:
    with site.database.transaction() as connection:
        number = one_row(connection, "SELECT id FROM run WHERE job_name = %s", job)["id"]
        return line.shown(connection, number)


def test_who_was_due_first_gets_the_place(site: Site) -> None:
    for number, name in enumerate(("third", "first", "second")):
        stand(site, name, minutes=(3, 1, 2)[number])
    assert promised(site) == ["first"]
    assert promised(site) == ["first"]
    assert shown(site, "first") == "a worker looks whether it may begin"
    assert shown(site, "third") == "place 3 of 3 in the line: host a has no free place, all 1 are taken"
    free(site, "first")
    assert promised(site) == ["second"]


def test_a_machine_that_is_about_to_stop_goes_first(site: Site) -> None:
    stand(site, "early")
    stand(site, "dying", minutes=9)
    with site.database.transaction() as connection:
        execute(connection, "UPDATE run SET last_breath = true WHERE job_name = 'dying'")
    assert promised(site) == ["dying"]


def test_an_agent_works_on_one_run_at_a_time(site: Site) -> None:
    stand(site, "one", agent="shared")
    stand(site, "two", agent="shared", hosts=("b",), minutes=1)
    stand(site, "three", hosts=("b",), minutes=2)
    assert promised(site) == ["one", "three"]
    with site.database.transaction() as connection:
        execute(connection, "UPDATE run SET state = 'running' WHERE job_name = 'one'")
    assert shown(site, "two") == "place 1 of 2 in the line: agent shared works on run 1"


def test_a_run_with_two_hosts_is_not_overtaken_on_either(site: Site) -> None:
    stand(site, "holds-b", hosts=("b",))
    assert promised(site) == ["holds-b"]
    stand(site, "both", hosts=("a", "b"), minutes=1)
    stand(site, "late", hosts=("a",), minutes=2)
    assert promised(site) == ["holds-b"]
    free(site, "holds-b")
    assert promised(site) == ["both"]


def test_a_line_that_grew_long_at_once_moves_at_once(site: Site) -> None:
    """As long as the statistics don't know it yet, too."""
    stand(site, "only")
    for _ in range(8):  # more often than a statement runs until the driver keeps its plan
        assert promised(site) == ["only"]
    with site.database.transaction() as connection:
        for table in ("run", "run_target"):
            execute(connection, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        execute(connection, _CROWD)
    free(site, "only")
    began = time.monotonic()
    assert promised(site) == ["crowd"]
    assert time.monotonic() - began < 1.0  # 4 s where it is worked out again for each run of the line, else 0.05 s


#: Another 4,000 runs like the one of ``only``, each with an agent of its own.
_CROWD = """
WITH agents AS (
    INSERT INTO agent (id, name, pool) SELECT gen_random_uuid(), 'crowd-' || n, 'fake' FROM generate_series(1, 4000) n
    RETURNING id
), waiting AS (
    INSERT INTO run (uid, job_name, agent_id, pool, trigger, requested_by, state, due_at)
    SELECT gen_random_uuid(), 'crowd', a.id, r.pool, 'manual', 'test', 'waiting', r.due_at + interval '1 minute'
    FROM agents a, run r RETURNING uid
)
INSERT INTO run_target (run_uid, replica_id, host_id)
SELECT w.uid, t.replica_id, t.host_id FROM waiting w, run_target t
"""


def test_what_waits_for_something_else_is_passed_over_and_keeps_its_place(site: Site) -> None:
    stand(site, "merging")
    stand(site, "next", minutes=1)
    assert promised(site) == ["merging"]
    with site.database.transaction() as connection:
        uid = one_row(connection, "SELECT uid FROM run WHERE job_name = 'merging'")["uid"]
        line.put_back(connection, uid, "waits for the consolidation of V1 on a", seconds=60)
    assert promised(site) == ["next"]
    assert shown(site, "merging") == "place 1 of 2 in the line: waits for the consolidation of V1 on a"
    free(site, "next")
    assert promised(site) == []
    with site.database.transaction() as connection:
        line.look_again(connection, one_row(connection, "SELECT id FROM replica WHERE job_name = 'merging'")["id"])
    assert promised(site) == ["merging"]


def test_a_promise_that_no_worker_comes_for_is_taken_back(site: Site) -> None:
    stand(site, "dead-pool")
    stand(site, "other", minutes=1)
    assert promised(site) == ["dead-pool"]
    with site.database.transaction() as connection:
        execute(connection, "UPDATE run SET enqueued_at = now() - interval '31 seconds' WHERE job_name = 'dead-pool'")
        line.withdraw(connection)
    assert promised(site) == ["other"]
    assert shown(site, "dead-pool") == "place 1 of 2 in the line: no worker of pool fake has looked at it yet"
