"""An installation that tells people: jobs with readers, runs that end, and the processes that send, step by step."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.notice import NoticeSettings, Sender
from bootpoint_common.store import agent as agents
from bootpoint_common.store import ending
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Database, Row
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.notice import Channel
from bootpoint_worker.notice.mail import Mail
from bootpoint_worker.notice.post import Post
from bootpoint_worker.notice.text import Texts
from bootpoint_worker.notice.webhook import Webhook
from tests.service.fleet import Fleet
from tests.service.mail_server import MailBox

#: Who sends in the tests.
SENDER = Sender("bootpoint", "bootpoint@example.org")


@dataclass
class Newsroom:
    """The parts."""

    fleet: Fleet
    directory: Path
    jobs: dict[str, int] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.fleet.database

    # --- making

    def add_job(self, name: str, *, host_id: UUID | None = None, **parts: dict[str, Any] | None) -> int:
        """Make a job with a source and a replica of its own, on a host of its own or one that is there.

        ``parts`` are tables of its file.
        """
        host_id = host_id or self.fleet.add_host(f"host-of-{name}")
        with self.database.transaction() as connection:
            agents.enroll(connection, name, "fake", b"")
        self.jobs[name] = self.fleet.add_job(name, name, {"system": self.directory / name}, host_id)
        for part, value in parts.items():
            self.execute(
                "UPDATE job SET spec = jsonb_set(spec, ARRAY[%s], (spec->%s) || %s) WHERE name = %s",
                *(part, part, Jsonb(value), name),
            )
        return self.jobs[name]

    def execute(self, query: str, *arguments: object) -> None:
        """Change rows as time or a person would."""
        with self.database.transaction() as connection:
            execute(connection, query, *arguments)

    def add_point(self, name: str, *, age: str, boots: bool = False) -> None:
        """Write a committed point of a job, its head from now on; ``age`` is an interval of PostgreSQL."""
        run_uid, point_id = new_id(), new_id()
        self.execute(
            "INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, ended_at)"
            " SELECT %s, j.id, j.name, j.agent_id, 'fake', 'manual', 'test', 'succeeded', now() FROM job j"
            " WHERE j.name = %s",
            *(run_uid, name),
        )
        self.execute(
            "INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, epoch, chain, consistency,"
            " instant, incarnation, committed_at, boot) SELECT %s, y.id, %s, 1 + (SELECT count(*) FROM boot_point b"
            " WHERE b.replica_id = y.id), 'V' || (SELECT count(*) FROM boot_point), 'committed', 'full', 1, 1, 'crash',"
            " now() - %s::interval, %s, now(), %s FROM replica y WHERE y.job_name = %s",
            *(point_id, run_uid, age, new_id(), Jsonb({"verdict": "boots"}) if boots else None, name),
        )
        self.execute("UPDATE replica SET head = %s WHERE job_name = %s", point_id, name)

    # --- doing

    def fail(self, name: str, text: str = "host kvm1 does not answer", *, attempt: int = 1) -> int:
        """Let a run of a job fail; returns its number."""
        problem = error(Code.HOST_UNREACHABLE, text, job=name, host="kvm1")
        with self.database.transaction() as connection:
            begun = runs.create(connection, self.jobs[name], trigger="manual", requested_by="test", attempt=attempt)
        with self.database.transaction() as connection:
            ending.end(connection, begun.uid, problem, actor="worker")
        return begun.id

    def mail_post(self, box: MailBox, *, timeout: float = 10.0, **settings: Any) -> Post:
        """Return the post of a process that sends mail."""
        made = NoticeSettings(mail=box.server, sender=SENDER, **settings)
        mail = Mail(made, Texts(made.templates), timeout=timeout)
        return Post(self.database, Channel.MAIL, mail, worker="w", clock=hours())

    def hook_post(self, **settings: Any) -> Post:
        """Return the post of a process that sends webhooks."""
        hook = Webhook(NoticeSettings(**settings))
        return Post(self.database, Channel.WEBHOOK, hook, worker="w", clock=hours())

    def pass_the_pause(self) -> None:
        """Let the time come at which everything that waits is tried again."""
        self.execute("UPDATE notification SET not_before = now(), held_until = NULL WHERE state = 'waiting'")

    def notices(self) -> list[Row]:
        """Return all notices, oldest first."""
        return self.fleet.rows("SELECT * FROM notification ORDER BY id")

    def events(self, kind: str) -> list[Row]:
        """Return all events of a kind, oldest first."""
        return self.fleet.rows("SELECT * FROM event WHERE kind = %s ORDER BY id", kind)


def hours() -> Callable[[], float]:
    """Return a clock that is an hour on at each look: no pause of a process lasts, those in rows do."""
    counted = itertools.count(step=3600)
    return lambda: float(next(counted))


def together(*works: Any) -> None:
    """Do several things at the same moment, in threads."""
    barrier = threading.Barrier(len(works))
    problems: list[BaseException] = []

    def do(work: Any) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as problem:  # noqa: BLE001 - raised again by the test's thread
            problems.append(problem)

    threads = [threading.Thread(target=do, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
