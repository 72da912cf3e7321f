"""A worker process: its threads, how they start, how they get over a lost broker or database, and how they end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dramatiq

from bootpoint_common.identity import new_id
from bootpoint_common.store import count, process
from bootpoint_common.store.database import run

from . import actors, archive, event_intake
from .admission import admit
from .context import Context
from .ingress import Ingress
from .loop import AWAY, Loop, stuck
from .notice.round import rounds
from .reaper import REAP_SECONDS, reap
from .relay import relay_once
from .scheduling.round import ROUND_SECONDS, attend
from .verification_due import LOOK_SECONDS, look

_log = logging.getLogger(__name__)

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

#: Longest wait for slices and tasks at the end of a process, in milliseconds. A slice ends at its next record, within
#: seconds; a commit that takes longer is done again elsewhere. `TimeoutStopSec` of the units is longer.
STOP_MILLISECONDS = 30_000

#: Channel of NOTIFY that says that the line has grown, or that a place may be free.
_LINE = "bootpoint_line"

#: Channel of NOTIFY that says that the outbox has something new.
_OUTBOX = "bootpoint_outbox"


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
        self._send, self._connect = actors.sender(broker), partial(actors.connect, broker)
        self._stop = threading.Event()
        self._id, self._kind, self._pools = new_id(), kind, list(pools)
        self._blocked = False
        self._loops = [
            Loop("relay", self._relay, self._stop, vital=True),
            Loop("reaper", lambda _: reap(context), self._stop, pause=REAP_SECONDS, vital=True),
            Loop("schedule", self._schedule, self._stop, pause=ROUND_SECONDS, vital=True),
            Loop("line", self._line, self._stop, vital=True),
            Loop("checks", lambda _: look(context), self._stop, pause=LOOK_SECONDS),
            Loop("archive", lambda _: archive.tend(context.database), self._stop, pause=archive.LOOK_SECONDS),
            Loop("alive", lambda _: self._alive(), self._stop, pause=ALIVE_SECONDS, vital=True),
            Loop("counts", lambda _: self._count(), self._stop, pause=COUNT_SECONDS),
            *(
                Loop(each.name, _plain(each.work), self._stop, pause=each.pause)
                for each in rounds(context.database, context.notices, context.worker, self._stop)
            ),
        ]
        if context.traces is not None:
            self._loops.append(Loop("traces", lambda _: self._tell_ended(), self._stop, pause=TRACE_SECONDS))
        if kind != "worker":
            self._loops.append(Loop("events", self._events, self._stop, vital=True))

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
        except AWAY:
            _log.info("process row left: the database is away")

    def _tell_ended(self) -> None:
        if self._context.traces is not None:
            with self._context.database.transaction() as connection:
                self._context.traces.tell_ended(connection)

    def _count(self) -> None:
        count.save(self._context.database, self._context.tally)

    def stuck(self, seconds: float) -> str | None:
        """Return the name of a loop that hasn't moved for so long though it should; None when there is none."""
        return stuck(self._loops, seconds)

    def _relay(self, loop: Loop) -> None:
        with self._context.database.listen(_OUTBOX) as connection:
            while loop.goes_on():
                while relay_once(self._context, self._send, self._connect) and loop.goes_on():
                    pass
                for _ in connection.notifies(timeout=RELAY_SECONDS, stop_after=1):
                    pass

    def _schedule(self, loop: Loop) -> None:
        while loop.goes_on() and attend(self._context.database, origin=self._context.worker):
            pass

    def _line(self, loop: Loop) -> None:
        with self._context.database.listen(_LINE) as connection:
            while loop.goes_on():
                while admit(self._context.database) and loop.goes_on():
                    pass
                for _ in connection.notifies(timeout=LINE_SECONDS, stop_after=1):
                    pass

    def _events(self, loop: Loop) -> None:
        """Take what others say of sources, until the end."""
        consumer = self._context.carrier.events(event_intake.PREFETCH)
        if consumer is None:
            while loop.goes_on():
                self._stop.wait(ALIVE_SECONDS)
            return
        try:
            while loop.goes_on():
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
        if needed or self._blocked:
            carrier.ask_alarm()
        if carrier.blocked != self._blocked:
            blocked = carrier.blocked
            with self._context.database.transaction() as connection:
                process.note_alarm(connection, self._id, self._context.worker, blocked=blocked)
            self._blocked = blocked


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
        self._ingress = [Loop(f"ingress {pool}", self._ingress_of(pool), self._stop, vital=True) for pool in pools]

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
        # At the same time: a task at its end must not take from the time of a slice.
        with ThreadPoolExecutor(len(self._workers)) as pool:
            list(pool.map(lambda worker: worker.stop(timeout=STOP_MILLISECONDS), self._workers))
        for loop in self._ingress:
            loop.join(10.0)
        self._control.stop()

    def stuck(self, seconds: float) -> str | None:
        """As `ControlLoops.stuck`; slices and tasks are no loops: their claims run out without progress."""
        return stuck(self._ingress, seconds) or self._control.stuck(seconds)

    def _ingress_of(self, pool: str) -> Callable[[Loop], None]:
        ingress = Ingress(self._context, pool)

        def consume(loop: Loop) -> None:
            self._context.carrier.declare_pool(pool)
            consumer = self._context.carrier.ingress(pool, INGRESS_PREFETCH)
            try:
                while loop.goes_on():
                    delivery = consumer.get(0.5)
                    if delivery is not None:
                        ingress.handle(delivery)
                        consumer.ack(delivery.tag)
            finally:
                consumer.close()

        return consume


def _plain(work: Callable[[], object]) -> Callable[[Loop], object]:
    """Return a round that asks nothing of its loop."""
    return lambda _: work()


def _expected(record: logging.LogRecord) -> bool:
    """Drop dramatiq's warning of a second worker on a broker: slices and short tasks have threads of their own."""
    return "middleware of the same type twice" not in str(record.msg)


def _worker(broker: dramatiq.Broker, queues: set[str], threads: int) -> dramatiq.Worker:
    broker.logger.addFilter(_expected)
    worker = dramatiq.Worker(broker, queues=queues, worker_threads=threads, worker_timeout=200)
    # As many in hand as threads: a task that waits behind a long one in this process could run in another.
    worker.queue_prefetch = threads
    return worker
