"""dramatiq as bootpoint uses it: which tasks there are, on which queues, and with what taken out.

A task is a kind and the id of a row, never data. It may be lost or repeated: every actor starts with the row's state
and its claim, and the reaper finds what was lost. So dramatiq's own retries are off (they keep messages in memory and
delay queues), and an actor that fails leaves its traceback in the log and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING
from uuid import UUID

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, ShutdownNotifications, TimeLimit
from pika.exceptions import AMQPError

from bootpoint_common.store.outbox import Task
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.rabbit_access import encrypted
from bootpoint_common.tls import NOTHING_OF_OURS, Trust

from .abort import abort
from .admission import prepare
from .adopt import adopt
from .commit import commit
from .consolidation import consolidate
from .context import Context
from .examine import examine
from .opening import open_point
from .replicate import replicate
from .request import answer_request
from .task_metric import TaskMetrics
from .trash import trash
from .trial import trial
from .verify import verify

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_log = logging.getLogger(__name__)

#: Longest time of a task in milliseconds: above the longest slice, below RabbitMQ's 30 minutes for an ack.
TIME_LIMIT = 25 * 60 * 1000

#: Longest wait in seconds of who hands a task to a broker that takes nothing, as at a memory alarm. dramatiq tries six
#: times before the relay begins anew; one that waited for ever would look like one that hangs.
BLOCKED_SECONDS = 20.0

#: Tasks that apply a stream; they have threads of their own, so that a long copy never holds up a commit.
SLICES = frozenset({"replicate"})

#: Tasks that read whole disks for minutes; they have threads of their own, so that they never hold up a commit either.
CHECKS = frozenset({"verify", "adopt"})

#: Every task and what does it.
ACTORS: dict[str, Callable[[Context, UUID], None]] = {
    "prepare": prepare,
    "open_point": open_point,
    "replicate": replicate,
    "commit": commit,
    "abort": abort,
    "consolidate": consolidate,
    "verify": verify,
    "examine": examine,
    "trial": trial,
    "adopt": adopt,
    "trash": trash,
    "request": answer_request,
}


def queue_of(pool: str, kind: str) -> str:
    """Return the queue of a kind of task: ``pool.X`` for slices, ``pool.X.checks``, ``pool.X.tasks`` for all others."""
    if kind in SLICES:
        return f"pool.{pool}"
    return f"pool.{pool}.checks" if kind in CHECKS else f"pool.{pool}.tasks"


def make_broker(
    url: str | None, trust: Trust = NOTHING_OF_OURS, registry: CollectorRegistry | None = None
) -> dramatiq.Broker:
    """Make dramatiq's broker: RabbitMQ with confirms, or in memory.

    Args:
        url: ``amqp://…``; None for the one in memory.
        trust: Whom an encrypted connection believes, and what it shows.
        registry: Where dramatiq's own metrics are registered, if they are served.
    """
    middleware: list[Middleware] = [TimeLimit(time_limit=TIME_LIMIT), ShutdownNotifications()]
    if registry is not None:
        middleware.append(TaskMetrics(registry))
    if url is None:
        return StubBroker(middleware=middleware)
    made = RabbitmqBroker(url=url, confirm_delivery=True, middleware=middleware)
    parameters = pika.URLParameters(url)
    parameters.blocked_connection_timeout = BLOCKED_SECONDS
    made.parameters = encrypted(parameters, url, trust)
    return made


def declare(broker: dramatiq.Broker, context: Context, pools: Iterable[str]) -> None:
    """Declare the queues of pools, and the actors that serve them with a context."""
    names = list(pools)
    for kind, work in ACTORS.items():
        # The class, not its decorator, which refuses dots in names of queues.
        dramatiq.Actor(
            _bound(work, context, kind),
            broker=broker,
            actor_name=kind,
            queue_name=queue_of(names[0], kind),
            priority=0,
            options={},
        )
    for pool in names:
        for kind in ACTORS:
            broker.declare_queue(queue_of(pool, kind))


def _bound(work: Callable[[Context, UUID], None], context: Context, kind: str) -> Callable[[str], None]:
    def task(subject: str) -> None:
        try:
            with _traced(context, kind, UUID(subject)):
                work(context, UUID(subject))
        except Exception:  # noqa: BLE001 - the actor's boundary: the row says what is to be done, the reaper finds it
            _log.exception("task failed", extra={"kind": kind, "subject": subject})

    return task


def _traced(context: Context, kind: str, subject: UUID) -> AbstractContextManager[None]:
    return nullcontext() if context.traces is None else context.traces.task(context.database, kind, subject)


def connect(broker: dramatiq.Broker) -> None:
    """Have this thread's connection to RabbitMQ open for `sender`: made, or made anew where it was lost meanwhile.

    Raises:
        CarrierLost: The broker isn't reachable.
    """
    if not isinstance(broker, RabbitmqBroker):
        return
    try:
        try:
            # It reads what has come since: that the broker ended the connection, and its heartbeats.
            broker.connection.process_data_events(time_limit=0)
        except AMQPError:
            del broker.connection
        _ = broker.channel
    except AMQPError as exc:
        raise CarrierLost(f"the broker isn't reachable: {exc!r}") from exc


def sender(broker: dramatiq.Broker) -> Callable[[Task], None]:
    """Return what hands a task to a pool's workers; with RabbitMQ it returns when the broker holds it."""

    def send(task: Task) -> None:
        queue = queue_of(task.pool, task.kind)
        broker.declare_queue(queue)
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=queue, actor_name=task.kind, args=(task.subject,), kwargs={}, options={}
        )
        broker.enqueue(message)

    return send
