"""Runs that start by themselves while something else goes on with their job, their agent or the database."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.job import read_json
from bootpoint_common.store import agent as agents
from bootpoint_common.store import outbox, retry
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Connection, Database, one_row, rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.units import MiB
from bootpoint_ops import job as jobs
from bootpoint_worker.scheduling import event
from bootpoint_worker.scheduling import round as rounds
from bootpoint_worker.scheduling.round import attend
from bootpoint_worker.targets.fake_host import FakeHost
from tests.integration.test_flow import write_random
from tests.integration.test_schedule import HOURLY, NOON, Site, site
from tests.service.fleet import Fleet
from tests.service.process import wait_for
from tests.service.rows import Wish, add_host, add_jobs

__all__ = ["site"]


class Call:
    """A call in a thread of its own, in a transaction of its own."""

    def __init__(self, database: Database, call: Callable[[Connection], Any]) -> None:
        self.result: Any = None
        self.problem: Exception | None = None
        self._database, self._call = database, call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._database.transaction() as connection:
                self.result = self._call(connection)
        except Exception as problem:  # noqa: BLE001 - the test looks at it
            self.problem = problem

    def end(self) -> Any:
        """Wait for its end; returns its result, or raises what it raised."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "it hangs"
        if self.problem is not None:
            raise self.problem
        return self.result


def blocked(database: Database, count: int = 1) -> None:
    """Wait until so many transactions wait for a lock."""

    def look() -> bool:
        with database.transaction() as connection:
            query = (
                "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            return bool(one_row(connection, query)["n"] == count)

    wait_for(look, "somebody who waits for a lock", 10)


def test_a_scheduler_does_not_wait_for_the_agents_messages(site: Site) -> None:
    """Waiting, it would hold rows that the message may want: each would wait for the other."""
    with site.database.transaction() as connection:
        assert agents.find(connection, "erp", lock=True) is not None
        scheduler = Call(site.database, lambda _: attend(site.database, origin="test", now=NOON))
        assert scheduler.end() == 1
    assert len(site.runs()) == 1


def test_an_event_takes_over_the_run_that_is_made_at_the_same_moment(site: Site) -> None:
    def shut_down(connection: Connection) -> runs.Run | None:
        agents.find(connection, "erp", lock=True)
        return event.start(connection, site.job, event="shutdown", deadline_seconds=60, actor="ups", origin="ups1")

    with site.database.transaction() as connection:
        runs.create(connection, site.job, trigger="schedule", requested_by="scheduler")
        machine = Call(site.database, shut_down)
        blocked(site.database)
    served = machine.end()
    assert (served.id, served.last_breath) == (1, True)
    assert len(site.runs()) == 1


def test_two_jobs_are_enabled_at_once(site: Site) -> None:
    with site.database.transaction() as connection:
        host = one_row(connection, "SELECT id FROM host")["id"]
        add_jobs(connection, {"h1": host}, [Wish("web", HOURLY)])
        for name in ("erp", "web"):
            jobs.switch(connection, name, enabled=False, actor="ann")

    def enable(name: str) -> Callable[[Connection], Any]:
        return lambda connection: jobs.switch(connection, name, enabled=True, actor="ann")

    with site.database.transaction() as connection:  # each has written something before the other has done so
        execute(connection, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$")
        execute(connection, "CREATE TRIGGER slow AFTER UPDATE ON job FOR EACH STATEMENT EXECUTE FUNCTION slow()")
    calls = [Call(site.database, enable(name)) for name in ("erp", "web")]
    assert [call.end().enabled for call in calls] == [True, True]


def test_a_job_is_applied_while_its_agent_speaks_of_its_run(site: Site) -> None:
    site.attend()
    with site.database.transaction() as connection:
        execute(connection, "UPDATE run SET state = 'running'")

    def disable(connection: Connection) -> None:
        jobs.switch(connection, "erp", enabled=False, actor="ann")

    with site.database.transaction() as connection:
        agents.find(connection, "erp", lock=True)
        operator = Call(site.database, disable)
        blocked(site.database)
        uid = one_row(connection, "SELECT uid FROM run")["uid"]
        runs.get(connection, uid, lock=True)  # as a report of the agent does
    operator.end()
    assert site.shown()["enabled"] is False


def test_what_takes_long_to_decide_is_carried_out_in_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL ends the transaction of a process that says nothing: as a frozen one must not keep what it holds."""
    with site.database.transaction() as connection:
        host = one_row(connection, "SELECT id FROM host")["id"]
        add_jobs(connection, {"h1": host}, [Wish(f"job-{number}", HOURLY) for number in range(12)])
    site.attend(minutes=-15)
    monkeypatch.setattr(rounds, "FROZEN_SECONDS", 1)
    monkeypatch.setattr(rounds, "DECIDE_SECONDS", 0.3)

    def slowly() -> float:
        time.sleep(0.15)  # what counting the starts of some weeks takes on a busy machine
        return 0.5

    while attend(site.database, origin="test", now=NOON, chance=slowly):
        pass
    assert len(site.runs()) == 13


@pytest.fixture
def rome(site: Site) -> Iterator[Database]:
    """A database whose server lives in Rome, where the clock is put back at 01:00 UTC on 25 October 2026."""
    with site.database.transaction() as connection:
        name = one_row(connection, "SELECT current_database() AS name")["name"]
        execute(connection, f"ALTER DATABASE {name} SET timezone = 'Europe/Rome'")
    made = Database(site.database.url, size=2)
    yield made
    made.close()


def test_a_servers_time_zone_changes_nothing(site: Site, rome: Database) -> None:
    before = NOON.replace(month=10, day=25, hour=0, minute=58)
    site.attend()
    with rome.transaction() as connection:
        row = one_row(
            connection,
            "UPDATE run SET state = 'failed', reason = %s, retryable = true, ended_at = %s RETURNING uid",
            *(str(Code.HOST_UNREACHABLE), before),
        )
        at = retry.follow(connection, row["uid"])
    assert at == before + timedelta(minutes=5)
    assert site.events("retry_planned") == ["attempt 2 of 4 starts at 2026-10-25 01:03:00 UTC"]


def test_a_run_ends_though_its_jobs_zone_is_unknown_here(site: Site) -> None:
    site.attend()
    with site.database.transaction() as connection:
        execute(connection, "UPDATE job SET spec = spec || '{\"time_zone\": \"Mars/Olympus\"}'")
    site.end(1, "failed", code=Code.HOST_UNREACHABLE, minutes=1)
    assert site.due()["retry"] == 6


def test_a_waiting_run_goes_where_its_job_has_come_to_go(site: Site) -> None:
    site.attend()
    with site.database.transaction() as connection:
        add_host(connection, "h2")
        spec = read_json(one_row(connection, "SELECT spec FROM job")["spec"])
        jobs.apply(connection, aimed(spec, "h2"), actor="ann")
    assert targets(site.database) == ["h2"]


def aimed(spec: Any, *hosts: str) -> Any:
    """Return a job with other targets."""
    return replace(spec, targets=tuple(replace(spec.targets[0], host=host) for host in hosts))


def targets(database: Database) -> list[str]:
    with database.transaction() as connection:
        query = "SELECT h.name FROM run_target t JOIN host h ON h.id = t.host_id ORDER BY 1"
        return [row["name"] for row in rows(connection, query)]


def test_a_run_whose_targets_are_others_than_its_jobs_is_put_right(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    """As after a replica was adopted under another number."""
    host = FakeHost.at(f"fake-{tmp_path.name}")
    disk = tmp_path / "system.raw"
    write_random(disk, 4 * MiB, rng, 4)
    installation.add_agent("erp-db", [disk])
    job = installation.add_job("erp", "erp-db", {"system": disk}, installation.add_host(host.name))
    begun = installation.run(job)
    with installation.database.transaction() as connection:
        execute(connection, "DELETE FROM run_target")
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE run SET enqueued_at = now()")
        outbox.task(connection, "fake", "prepare", begun.uid)
    installation.add_worker("w1")
    installation.wait(begun)
    assert len(installation.points(job)) == 1


def test_targets_that_change_during_the_preflight_get_one(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    hosts = [FakeHost.at(f"{name}-{tmp_path.name}") for name in ("old", "new")]
    disk = tmp_path / "system.raw"
    write_random(disk, 4 * MiB, rng, 4)
    installation.add_agent("erp-db", [disk])
    first, _ = [installation.add_host(host.name) for host in hosts]
    job = installation.add_job("erp", "erp-db", {"system": disk}, first)
    pause = hosts[0].pause_at("create", "called")
    installation.add_worker("w1")
    begun = installation.run(job)
    pause.wait()
    row = installation.row("SELECT spec FROM job")
    assert row is not None
    installation.apply(job, targets=aimed(read_json(row["spec"]), hosts[1].name).targets)
    pause.release()
    installation.wait(begun)
    (point,) = installation.points(job)
    assert targets(installation.database) == [hosts[1].name]
    assert point.host == hosts[1].name
