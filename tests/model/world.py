"""The world of the protocol's model: two sources, two workers, a broker, a host with a volatile cache, a database."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common import job as jobs
from bootpoint_common.cipher import AgentKey
from bootpoint_common.errors import BootpointError, Fenced
from bootpoint_common.identity import new_id
from bootpoint_common.store import agent as agents
from bootpoint_common.store import ending
from bootpoint_common.store import run as runs
from bootpoint_common.store.claim import Claim, claim
from bootpoint_common.store.database import Database, Row, one, rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.outbox import Task
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.units import GRAIN
from bootpoint_common.vault import Vault
from bootpoint_producer.state import Identity
from bootpoint_worker import actors, replicate
from bootpoint_worker.admission import admit
from bootpoint_worker.commit import commit
from bootpoint_worker.context import Context, Sessions
from bootpoint_worker.ingress import Ingress
from bootpoint_worker.reaper import reap
from bootpoint_worker.relay import relay_once
from bootpoint_worker.slice import Slice
from bootpoint_worker.targets.fake_host import FakeHost
from tests.model.source import MACHINE, ModelAgent

#: Points that each job keeps: so few that some go in most sequences.
POINTS = 3

#: Credit of a stream: a few grains, so that it matters.
WINDOW = 5 * GRAIN


class WorkerDied(BaseException):
    """What a fault raises where a worker is killed: nothing below it may clean up."""


@dataclass
class HeldSlice:
    """A slice in a worker's hands, with everything that it holds."""

    work: replicate.Work
    held: Claim
    current: Slice
    stack: ExitStack


@dataclass
class ModelWorker:
    """One worker process."""

    context: Context
    ingress: Ingress
    slices: list[HeldSlice] = field(default_factory=list)


class World:
    """Everything, and the steps that a test may take.

    Args:
        url: A fresh database.
        folder: For disks and the agents' state.
        seed: Of everything random below the steps.
    """

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.database = Database(url, size=4)
        self.broker = MemoryBroker()
        self.vault = Vault(os.urandom(32))
        self.host = FakeHost.install(FakeHost(f"model-{new_id()}"))
        self.tasks: list[Task] = []
        self.workers = [self._worker(name) for name in ("w1", "w2")]
        host_id = self._add_host()
        sizes = [{"a": 12 * GRAIN}, {"a": 9 * GRAIN + 512, "b": 5 * GRAIN}]
        self.agents = [self._add_agent(f"s{number}", folder, size) for number, size in enumerate(sizes)]
        self.jobs = [self._add_job(agent, host_id) for agent in self.agents]
        self.verified: set[UUID] = set()

    # --- making

    def _worker(self, name: str) -> ModelWorker:
        carrier = self.broker.worker_carrier()
        carrier.declare_pool("fake")
        context = Context(
            database=self.database,
            carrier=carrier,
            vault=self.vault,
            sessions=Sessions(self.vault),
            worker=name,
            window_bytes=WINDOW,
            idle_seconds=0.0,
            renewing=False,
        )
        return ModelWorker(context, Ingress(context, "fake"))

    def _add_host(self) -> UUID:
        host_id = new_id()
        with self.database.transaction() as connection:
            execute(
                connection,
                "INSERT INTO host (id, name, kind, address, port, username, pool)"
                " VALUES (%s, 'h', 'fake', %s, 0, 'root', 'fake')",
                host_id,
                self.host.name,
            )
        return host_id

    def _add_agent(self, name: str, folder: Path, sizes: dict[str, int]) -> ModelAgent:
        made = ModelAgent(self.broker, name, folder, sizes, self.rng)
        key = AgentKey(1, os.urandom(32))
        made.state.keep_identity(Identity(name, "fake", "", key, MACHINE))
        with self.database.transaction() as connection:
            agents.enroll(connection, name, "fake", b"")
            agents.joined(connection, name, 1, self.vault.encrypt(agents.key_purpose(name), key.secret), MACHINE)
        self.workers[0].context.carrier.declare_agent(name)
        made.boot()
        return made

    def _add_job(self, agent: ModelAgent, host_id: UUID) -> int:
        disks = [{"slot": slot, "id": f"file:{path}"} for slot, path in agent.disks.items()]
        spec = jobs.read_json(
            {
                "name": agent.name,
                "source": {"agent": agent.name, "disks": disks},
                "target": [{"host": "h", "points": POINTS}],
                "check": {"boot": "never"},
            }
        )
        with self.database.transaction() as connection:
            row = one(
                connection,
                "INSERT INTO job (name, revision, enabled, agent_id, spec) VALUES (%s, 1, true, %s, %s) RETURNING id",
                agent.name,
                agents.get(connection, agent.name).id,
                Jsonb(jobs.as_json(spec)),
            )
            assert row is not None
            execute(
                connection,
                "INSERT INTO replica (id, job_id, job_name, host_id, pool) VALUES (%s, %s, %s, %s, 'fake')",
                new_id(),
                row["id"],
                agent.name,
                host_id,
            )
        return int(row["id"])

    # --- steps of the control plane

    def begin_run(self, number: int) -> None:
        """Ask for a run; refused where one is under way."""
        with self.database.transaction() as connection:
            busy = one(
                connection, "SELECT 1 FROM run WHERE job_id = %s AND state IN ('waiting', 'running')", self.jobs[number]
            )
            if busy is None:
                runs.create(connection, self.jobs[number], trigger="manual", requested_by="model")

    def cancel(self, number: int) -> None:
        """Cancel a job's run, where that isn't too late."""
        row = self.row("SELECT id FROM run WHERE job_id = %s AND state IN ('waiting', 'running')", self.jobs[number])
        if row is not None:
            try:
                with self.database.transaction() as connection:
                    ending.cancel(connection, row["id"], actor="model")
            except BootpointError:
                return

    def relay(self) -> int:
        """Let in who may begin, and publish what is due; tasks go to where a test picks them."""
        admit(self.database)
        return relay_once(self.workers[0].context, self.tasks.append)

    def reap(self) -> None:
        """Let the reaper look once."""
        reap(self.workers[0].context)

    def pass_time(self) -> None:
        """Let every wait be over: claims run out, tasks count as lost, delays end."""
        with self.database.transaction() as connection:
            execute(connection, "UPDATE replica SET writer_until = '-infinity'")
            execute(connection, "UPDATE boot_point_disk SET writer_until = '-infinity'")
            execute(connection, "UPDATE outbox SET not_before = now()")
            for table in ("run", "boot_point", "boot_point_disk"):
                execute(connection, f"UPDATE {table} SET enqueued_at = enqueued_at - interval '1 hour'")
            execute(connection, "UPDATE run SET look_at = NULL")
            execute(connection, "UPDATE replica SET consolidation_enqueued_at = NULL")
        for agent in self.agents:
            agent.pass_time()

    def take_in(self, worker: int, *, lose: bool = False, repeat: bool = False) -> bool:
        """Let a worker take one message off the ingress; returns whether there was one."""
        chosen = self.workers[worker]
        consumer = chosen.context.carrier.ingress("fake", 1)
        try:
            delivery = consumer.get(0)
            if delivery is None:
                return False
            for _ in range(0 if lose else 2 if repeat else 1):
                chosen.ingress.handle(delivery)
            consumer.ack(delivery.tag)
            return True
        finally:
            consumer.close()

    def do_task(self, index: int, worker: int, *, keep: bool = False) -> None:
        """Let a worker do a task to its end, a whole slice included; with ``keep`` it will come once more."""
        if not self.tasks:
            return
        task = self.tasks[index % len(self.tasks)] if keep else self.tasks.pop(index % len(self.tasks))
        self._guard(worker, lambda: actors.ACTORS[task.kind](self.workers[worker].context, UUID(task.subject)))

    def _guard(self, worker: int, work: object) -> None:
        """Run something of a worker; where a fault kills the worker, its slices and connections are gone."""
        try:
            work()  # type: ignore[operator]
        except WorkerDied:
            self.kill(worker)
        except CarrierLost:
            return

    def drop_task(self, index: int) -> None:
        """Lose a task."""
        if self.tasks:
            self.tasks.pop(index % len(self.tasks))

    # --- slices, step by step

    def begin_slice(self, worker: int) -> None:
        """Let a worker begin a slice of some stream that has a task, or none."""
        task = next((task for task in self.tasks if task.kind == "replicate"), None)
        if task is None:
            return
        self.tasks.remove(task)
        self._guard(worker, lambda: self._open_slice(self.workers[worker], UUID(task.subject)))

    def _open_slice(self, worker: ModelWorker, disk_id: UUID) -> None:
        work = replicate.look(worker.context, disk_id)
        if work is None or not worker.context.carrier.depth(disk_id):
            return
        held = claim(self.database, "boot_point_disk", disk_id, renewing=False)
        if held is None:
            return
        stack = ExitStack()
        try:
            target = stack.enter_context(worker.context.sessions.use(work.host))
            current = replicate.slice_for(worker.context, held, work, target, stack)
        except (BootpointError, Fenced, CarrierLost):
            stack.close()
            return
        worker.slices.append(HeldSlice(work, held, current, stack))

    def step_slice(self, worker: int, index: int) -> None:
        """Let a worker's slice take one bundle; it may have been frozen for long, and its claim may be another's."""
        slices = self.workers[worker].slices
        if slices:
            held = slices[index % len(slices)]
            self._guard(worker, lambda: self._step(self.workers[worker], held))

    def _step(self, worker: ModelWorker, held: HeldSlice) -> None:
        try:
            if not held.current.step(0):
                held.current.record()
        except (Fenced, CarrierLost):
            self._drop(worker, held)
        except BootpointError as problem:
            replicate.failed(worker.context, held.held, held.work, problem)
            self._drop(worker, held)
        else:
            if held.current.done:
                self._drop(worker, held)
                if held.current.sealed_point:
                    commit(worker.context, held.work.found.id)

    def _drop(self, worker: ModelWorker, held: HeldSlice) -> None:
        if held in worker.slices:
            worker.slices.remove(held)
        held.stack.close()

    def kill(self, worker: int) -> None:
        """Kill a worker: what it held unacked goes back, its claims stay until they run out, its writers' bytes stay
        in the host's page cache."""
        old = self.workers[worker]
        for held in old.slices:
            held.stack.pop_all()
        old.context.carrier.close()
        self.workers[worker] = self._worker(old.context.worker)
        self.host.kill_writers()

    def cut_power(self) -> None:
        """Cut the host's power: a random part of what wasn't flushed is lost."""
        self.host.crash(self.rng)

    def strike(self, verb: str, step: str, how: str) -> None:
        """Lay a fault at a step of the target."""
        if how == "die":
            self.host.act_at(verb, step, _die)
        elif how == "power":
            self.host.crash_at(verb, step, self.rng)
        else:
            self.host.disconnect_at(verb, step)

    # --- looking

    def row(self, query: str, *arguments: object) -> Row | None:
        """Return the first row of a query."""
        with self.database.transaction() as connection:
            return one(connection, query, *arguments)

    def rows(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a query."""
        with self.database.transaction() as connection:
            return rows(connection, query, *arguments)

    def contents(self) -> dict[str, list[bytes]]:
        """Return what every queue of the broker holds, handed out and unacked or not."""
        state = self.broker._state
        named = {f"stream.{key}": queue for key, queue in state.streams.items()} | state.inboxes | state.pools
        return {
            name: [body for body, _, _ in queue.messages]
            + [body for consumer in queue.consumers for _, body, _ in consumer._unacked]
            for name, queue in named.items()
        }

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            worker.slices.clear()
            worker.context.carrier.close()
        self.database.close()


def _die(_session: object) -> None:
    raise WorkerDied
