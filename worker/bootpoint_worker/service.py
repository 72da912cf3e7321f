"""A worker process: its threads, how they start, how they get over a lost broker or database, and how they end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import dramatiq
import psycopg
from psycopg_pool import PoolTimeout

from bootpoint_common.identity import new_id
from bootpoint_common.store import count, process
from bootpoint_common.store.database import run
from bootpoint_common.stream.carrier import CarrierLost

from . import actors, archive, event_intake
from .admission import admit
from .context import Context
from .ingress import Ingress
from .notice.round import rounds
from .reaper import REAP_SECONDS, reap
from .relay import relay_once
from .scheduling.round import ROUND_SECONDS, attend
from .verification_due import LOOK_SECONDS, look

_log = logging.getLogger(__name__)

#: What a lost broker or database looks like; the loop that meets it begins anew after `AGAIN_SECONDS`.
_AWAY = (CarrierLost, psycopg.Error, PoolTimeout, dramatiq.errors.BrokerConnectionError, OSError)

#: Seconds until a loop that lost its broker or database begins anew.
AGAIN_SECONDS = 1.0

#: Longest wait of the relay for news, in seconds: rows with a later time become due without a word.
RELAY_SECONDS = 0.5

#: Messages of agents in hand without an ack.
INGRESS_PREFETCH = 32

#: Seconds between two signs of life of a process.
ALIVE_SECONDS = 5.0

#: Seconds between two times that a process adds what it counted to the sums of all.
COUNT_SECONDS = 5.0

#: Seconds between two looks for runs whose traces end.
TRACE_SECONDS = 2.0

#: Longest wait for news of the line, in seconds: who was passed over is looked at again without a word.
LINE_SECONDS = 1.0

#: Channel of NOTIFY that says that the line has grown, or that a place may be free.
_LINE = "bootpoint_line"

#: Channel of NOTIFY that says that the outbox has something new.
_OUTBOX = "bootpoint_outbox"


class Loop:
    """A thread that does the same thing again until it is told to stop.

    Args:
        name: Name of the thread.
        work: One round; returns when there is nothing to do at the moment.
        stop: Set when the loop is to end.
        pause: Seconds between rounds.
    """

    def __init__(self, name: str, work: Callable[[], object], stop: threading.Event, *, pause: float = 0.0) -> None:
        self._work, self._stop, self._pause = work, stop, pause
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = self._pause
            try:
                self._work()
            except _AWAY as away:
                _log.warning("loop begins anew", extra={"loop": self._thread.name, "cause": str(away)})
                pause = AGAIN_SECONDS
            except Exception:  # noqa: BLE001 - the thread's boundary: what failed stands in a row or queue, is met again
                _log.exception("loop failed", extra={"loop": self._thread.name})
                pause = AGAIN_SECONDS
            if pause:
                self._stop.wait(pause)


class ControlLoops:
    """Relay, reaper, due runs, the line, notices, due checks, archive: any scheduler or worker runs them, none leads.

    Schedulers, and `up`, also take what others say of sources.

    Args:
        context: What the process works with.
        broker: Where tasks go.
        kind: ``worker``, ``scheduler`` or ``up``.
        pools: The pools that the process serves, if it is a worker.
    """

    def __init__(self, context: Context, broker: dramatiq.Broker, *, kind: str, pools: Sequence[str] = ()) -> None:
        self._context = context
        self._send = actors.sender(broker)
        self._stop = threading.Event()
        self._id, self._kind, self._pools = new_id(), kind, list(pools)
        self._blocked = False
        self._loops = [
            Loop("relay", self._relay, self._stop),
            Loop("reaper", lambda: reap(context), self._stop, pause=REAP_SECONDS),
            Loop("schedule", self._schedule, self._stop, pause=ROUND_SECONDS),
            Loop("line", self._line, self._stop),
            Loop("checks", lambda: look(context), self._stop, pause=LOOK_SECONDS),
            Loop("archive", lambda: archive.tend(context.database), self._stop, pause=archive.LOOK_SECONDS),
            Loop("alive", self._alive, self._stop, pause=ALIVE_SECONDS),
            Loop("counts", self._count, self._stop, pause=COUNT_SECONDS),
            *(
                Loop(each.name, each.work, self._stop, pause=each.pause)
                for each in rounds(context.database, context.notices, context.worker, self._stop)
            ),
        ]
        if context.traces is not None:
            self._loops.append(Loop("traces", self._tell_ended, self._stop, pause=TRACE_SECONDS))
        if kind != "worker":
            self._loops.append(Loop("events", self._events, self._stop))

    def start(self) -> None:
        """Start the threads."""
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End the threads and take the process off the list."""
        self._stop.set()
        for loop in self._loops:
            loop.join(10.0)
        try:
            self._count()
            self._tell_ended()
            with self._context.database.transaction() as connection:
                run(connection, "DELETE FROM process WHERE id = %s", self._id)
        except _AWAY:
            _log.info("process row left: the database is away")

    def _tell_ended(self) -> None:
        if self._context.traces is not None:
            with self._context.database.transaction() as connection:
                self._context.traces.tell_ended(connection)

    def _count(self) -> None:
        count.save(self._context.database, self._context.tally)

    def _relay(self) -> None:
        with self._context.database.listen(_OUTBOX) as connection:
            while not self._stop.is_set():
                while relay_once(self._context, self._send):
                    pass
                for _ in connection.notifies(timeout=RELAY_SECONDS, stop_after=1):
                    pass

    def _schedule(self) -> None:
        while not self._stop.is_set() and attend(self._context.database, origin=self._context.worker):
            pass

    def _line(self) -> None:
        with self._context.database.listen(_LINE) as connection:
            while not self._stop.is_set():
                while admit(self._context.database):
                    pass
                for _ in connection.notifies(timeout=LINE_SECONDS, stop_after=1):
                    pass

    def _events(self) -> None:
        """Take what others say of sources, until the end."""
        consumer = self._context.carrier.events(event_intake.PREFETCH)
        if consumer is None:
            self._stop.wait()
            return
        try:
            while not self._stop.is_set():
                delivery = consumer.get(0.5)
                if delivery is not None:
                    event_intake.take(self._context, delivery)
                    consumer.ack(delivery.tag)
        finally:
            consumer.close()

    def _alive(self) -> None:
        with self._context.database.transaction() as connection:
            process.alive(
                connection,
                self._id,
                kind=self._kind,
                pools=self._pools,
                name=self._context.worker,
                metrics=self._context.served_at,
            )
            needed = process.needs_broker(connection)
        carrier = self._context.carrier
        if needed:
            carrier.ask_alarm()
        if carrier.blocked != self._blocked:
            self._blocked = carrier.blocked
            with self._context.database.transaction() as connection:
                process.note_alarm(connection, self._id, self._context.worker, blocked=self._blocked)


class WorkerService:
    """A worker process: ingress, tasks and slices of its pools, relay and reaper.

    Args:
        context: What it works with.
        broker: dramatiq's broker (`actors.make_broker`).
        pools: Pools that it serves.
        slices: Streams that it applies at a time.
        tasks: Short tasks that it does at a time.
        checks: Checks that it does at a time.
        kind: How the process calls itself.
    """

    def __init__(
        self,
        context: Context,
        broker: dramatiq.Broker,
        pools: Sequence[str],
        *,
        slices: int = 4,
        tasks: int = 4,
        checks: int = 2,
        kind: str = "worker",
    ) -> None:
        self._context = context
        self._stop = threading.Event()
        actors.declare(broker, context, pools)
        self._control = ControlLoops(context, broker, kind=kind, pools=pools)
        slice_queues = {actors.queue_of(pool, kind) for pool in pools for kind in actors.SLICES}
        check_queues = {actors.queue_of(pool, kind) for pool in pools for kind in actors.CHECKS}
        every = {actors.queue_of(pool, kind) for pool in pools for kind in actors.ACTORS}
        self._workers = [
            _worker(broker, slice_queues, slices),
            _worker(broker, every - slice_queues - check_queues, tasks),
            _worker(broker, check_queues, checks),
        ]
        self._ingress = [Loop(f"ingress {pool}", self._ingress_of(pool), self._stop) for pool in pools]

    def start(self) -> None:
        """Start all threads."""
        self._control.start()
        for loop in self._ingress:
            loop.start()
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End slices at their next record, then all threads; unfinished work goes on elsewhere."""
        self._context.stopping.set()
        self._stop.set()
        for worker in self._workers:
            worker.stop(timeout=30_000)
        for loop in self._ingress:
            loop.join(10.0)
        self._control.stop()

    def _ingress_of(self, pool: str) -> Callable[[], None]:
        ingress = Ingress(self._context, pool)

        def consume() -> None:
            self._context.carrier.declare_pool(pool)
            consumer = self._context.carrier.ingress(pool, INGRESS_PREFETCH)
            try:
                while not self._stop.is_set():
                    delivery = consumer.get(0.5)
                    if delivery is not None:
                        ingress.handle(delivery)
                        consumer.ack(delivery.tag)
            finally:
                consumer.close()

        return consume


def _expected(record: logging.LogRecord) -> bool:
    """Drop dramatiq's warning of a second worker on a broker: slices and short tasks have threads of their own."""
    return "middleware of the same type twice" not in str(record.msg)


def _worker(broker: dramatiq.Broker, queues: set[str], threads: int) -> dramatiq.Worker:
    broker.logger.addFilter(_expected)
    worker = dramatiq.Worker(broker, queues=queues, worker_threads=threads, worker_timeout=200)
    # As many in hand as threads: a task that waits behind a long one in this process could run in another.
    worker.queue_prefetch = threads
    return worker
