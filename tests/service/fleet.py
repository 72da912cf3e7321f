"""A whole installation in one process: database, broker in memory or real, workers and agents as threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import dramatiq
from psycopg.types.json import Jsonb

from bootpoint_common.cipher import AgentKey
from bootpoint_common.config import AgentConfig
from bootpoint_common.identity import new_id
from bootpoint_common.metric import Metric
from bootpoint_common.store import agent as agents
from bootpoint_common.store import count, point
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Database, Row, one, rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.point import WINDOW
from bootpoint_common.store.role import Role
from bootpoint_common.stream.carrier import AgentCarrier, WorkerCarrier
from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.vault import Vault
from bootpoint_producer import doorbell
from bootpoint_producer.agent import Agent
from bootpoint_producer.state import AgentState, Identity
from bootpoint_worker import actors
from bootpoint_worker.context import Context, Sessions
from bootpoint_worker.service import WorkerService
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.trace import Traces
from tests.service.postgres import url_as
from tests.service.process import wait_for

#: Leaves out what can't be copied of the directory of an agent that runs: its socket.
WITHOUT_SOCKET = shutil.ignore_patterns(doorbell.NAME)

#: The machine that every agent of the tests runs on.
MACHINE: dict[str, Any] = {"smbios_uuid": "0c1d9c3e-0000-4000-8000-000000000001", "disk_serials": []}


class Broker(Protocol):
    """What carries streams and messages: in memory, or RabbitMQ."""

    def agent_carrier(self, agent: str) -> AgentCarrier:
        """Connect as an agent."""

    def worker_carrier(self) -> WorkerCarrier:
        """Connect as one of our own processes."""


@dataclass
class Fleet:
    """The parts, and what tests ask of them."""

    database: Database
    broker: Broker
    vault: Vault
    directory: Path
    agents: dict[str, Agent] = field(default_factory=dict)
    services: list[WorkerService] = field(default_factory=list)
    _databases: list[Database] = field(default_factory=list)
    _tasks: list[dramatiq.Broker] = field(default_factory=list)

    # --- making

    def add_worker(
        self,
        name: str,
        *,
        pools: tuple[str, ...] = ("fake",),
        slices: int = 2,
        window_bytes: int = WINDOW,
        opener: Callable[[HostAccess], Target] = connect,
        kind: str = "worker",
        traces: Traces | None = None,
        tasks_url: str | None = None,
    ) -> WorkerService:
        """Start a worker, under the rights of one in the database; of the kind ``up`` it is a scheduler, too.

        Tasks are in memory unless a broker is named.
        """
        database = Database(url_as(self.database.url, Role.WORKER), size=16)
        self._databases.append(database)
        context = Context(
            database=database,
            carrier=self.broker.worker_carrier(),
            vault=self.vault,
            sessions=Sessions(self.vault, opener=opener),
            worker=name,
            window_bytes=window_bytes,
            traces=traces,
        )
        tasks = actors.make_broker(tasks_url)
        self._tasks.append(tasks)
        service = WorkerService(context, tasks, pools, slices=slices, tasks=slices, kind=kind)
        service.start()
        self.services.append(service)
        return service

    def add_host(
        self, name: str, *, kind: str = "fake", address: str | None = None, settings: dict[str, Any] | None = None
    ) -> UUID:
        """Write a host."""
        host_id = new_id()
        with self.database.transaction() as connection:
            execute(
                connection,
                "INSERT INTO host (id, name, kind, address, port, username, settings, pool, state)"
                " VALUES (%s, %s, %s, %s, 0, 'root', %s, %s, 'reachable')",
                host_id,
                name,
                kind,
                address or name,
                Jsonb(settings or {}),
                kind,
            )
        return host_id

    def add_agent(self, name: str, files: list[Path], *, pool: str = "fake") -> Agent:
        """Enroll an agent as `bootpoint up` does for this machine, and start it."""
        self.enroll_agent(name, pool=pool)
        return self.start_agent(name, files)

    def enroll_agent(self, name: str, *, pool: str = "fake") -> None:
        """Enroll an agent, and let it join."""
        key = AgentKey(1, os.urandom(32))
        state = AgentState(self.directory / f"agent-{name}")
        state.keep_identity(Identity(name, pool, "", key, MACHINE))
        with self.database.transaction() as connection:
            agents.enroll(connection, name, pool, b"")
            agents.joined(connection, name, 1, self.vault.encrypt(agents.key_purpose(name), key.secret), MACHINE)

    def start_agent(self, name: str, files: list[Path], *, broker_stays: bool = True) -> Agent:
        """Start an agent that has joined; its broker goes with its machine, or stays."""
        config = AgentConfig(files=tuple(f"file:{file}" for file in files))
        self.broker.worker_carrier().declare_agent(name)
        started = Agent(
            AgentState(self.directory / f"agent-{name}"),
            config,
            self.broker.agent_carrier(name),
            machine_now=MACHINE,
            broker_stays=broker_stays,
        )
        started.start()
        self.agents[name] = started
        return started

    def add_job(
        self,
        name: str,
        agent: str,
        disks: dict[str, Path],
        host_id: UUID,
        *,
        consistency: str = "crash",
        skip: Sequence[str] = (),
        target: dict[str, Any] | None = None,
        scripts: dict[str, Any] | None = None,
        check: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        rules: dict[str, Any] | None = None,
    ) -> int:
        """Write a job of files on one host; ``target``, ``scripts``, ``check`` and ``limits`` are as in its file.

        ``rules`` is what its file says under ``[run]``.

        Unless they say otherwise no boot check comes by itself, which a test would meet at any moment, and no run
        stands back: on a loaded machine a test would wait for it.
        """
        from bootpoint_common import job as jobs

        with self.database.transaction() as connection:
            on = one(connection, "SELECT name, pool FROM host WHERE id = %s", host_id)
            source = agents.get(connection, agent)
            assert on is not None
            spec = jobs.read_json(
                {
                    "name": name,
                    "source": {
                        "agent": agent,
                        "consistency": consistency,
                        "skip": list(skip),
                        "disks": [{"slot": slot, "id": f"file:{path}"} for slot, path in disks.items()],
                    },
                    "target": [{"host": on["name"], **(target or {})}],
                    "scripts": scripts or {},
                    "limits": {"nice": 0} | (limits or {}),
                    "check": {"boot": "never"} | (check or {}),
                    "run": rules or {},
                }
            )
            row = one(
                connection,
                "INSERT INTO job (name, revision, enabled, agent_id, spec) VALUES (%s, 1, true, %s, %s) RETURNING id",
                name,
                source.id,
                Jsonb(jobs.as_json(spec)),
            )
            assert row is not None
            execute(
                connection,
                "INSERT INTO replica (id, job_id, job_name, host_id, pool) VALUES (%s, %s, %s, %s, %s)",
                new_id(),
                row["id"],
                name,
                host_id,
                on["pool"],
            )
        return int(row["id"])

    # --- doing

    def apply(self, job_id: int, **parts: Any) -> None:
        """Apply a job with other parts of its `Spec`, as `job apply` does."""
        from bootpoint_common import job as jobs
        from bootpoint_ops.job import apply

        row = self.row("SELECT spec FROM job WHERE id = %s", job_id)
        assert row is not None
        with self.database.transaction() as connection:
            apply(connection, replace(jobs.read_json(row["spec"]), **parts), actor="test")

    def run(self, job_id: int) -> runs.Run:
        """Begin a run."""
        with self.database.transaction() as connection:
            return runs.create(connection, job_id, trigger="manual", requested_by="test")

    def wait(self, begun: runs.Run, *, state: str = "succeeded", seconds: float = 60.0) -> Row:
        """Wait until a run has ended, and require its state."""
        row = self.wait_until(
            lambda: self.row("SELECT * FROM run WHERE uid = %s AND state NOT IN ('waiting', 'running')", begun.uid),
            seconds,
        )
        assert row["state"] == state, f"run {begun.id}: {row['state']} {row['reason']} {row['message']}"
        return row

    def wait_until(self, look: Callable[[], Row | None], seconds: float = 60.0) -> Row:
        """Wait until a look finds something."""
        found = wait_for(look, "a row", seconds)
        assert found is not None
        return found

    def row(self, query: str, *arguments: object) -> Row | None:
        """Return the first row of a query."""
        with self.database.transaction() as connection:
            return one(connection, query, *arguments)

    def rows(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a query."""
        with self.database.transaction() as connection:
            return rows(connection, query, *arguments)

    def counted(self, metric: Metric, *labels: str) -> float:
        """Return what all processes have counted, written down or not."""
        with self.database.transaction() as connection:
            written = count.sums(connection).get(metric.name, {}).get(labels, 0.0)
        for service in self.services:
            tally = service._context.tally
            taken = tally.take()
            tally.back(taken)
            written += taken.get((metric, labels), 0.0)
        return written

    def points(self, job_id: int) -> list[point.Point]:
        """Return the committed points of a job, oldest first."""
        with self.database.transaction() as connection:
            found = rows(
                connection,
                "SELECT p.id FROM boot_point p JOIN replica y ON y.id = p.replica_id"
                " WHERE y.job_id = %s AND p.state = 'committed' AND p.consolidated_at IS NULL ORDER BY p.sequence",
                job_id,
            )
            read = [point.get(connection, row["id"]) for row in found]
        return [value for value in read if value is not None]

    def stop(self, service: WorkerService) -> None:
        """End a worker, and its sessions to hosts; may be called twice."""
        service.stop()
        service._context.sessions.close()

    def close(self) -> None:
        """End everything."""
        for agent in self.agents.values():
            agent.stop()
        for service in self.services:
            self.stop(service)
        for tasks in self._tasks:
            tasks.close()
        for database in (*self._databases, self.database):
            database.close()


@contextmanager
def fleet(database_url: str, directory: Path, broker: Broker | None = None) -> Iterator[Fleet]:
    """Make an installation without workers, hosts and agents; its broker is one in memory by default."""
    made = Fleet(
        database=Database(database_url, size=16),
        broker=broker or MemoryBroker(),
        vault=Vault(os.urandom(32)),
        directory=directory,
    )
    try:
        yield made
    finally:
        made.close()
