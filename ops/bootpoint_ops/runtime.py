"""What the processes of the control plane are made of: a worker, a scheduler, and `up`, which is all in one."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from bootpoint_common import allocator, log
from bootpoint_common.config import Config
from bootpoint_common.crypto import Vault
from bootpoint_common.errors import Code, error
from bootpoint_common.metric import Metrics, serve
from bootpoint_common.store.database import Database
from bootpoint_common.stream.carrier import WorkerCarrier
from bootpoint_ops.environment import database_url, open_vault
from bootpoint_worker.context import Context, Sessions

#: Connections of a process with all its threads.
CONNECTIONS = 24

Say = Callable[[str], None]


def process_name(kind: str) -> str:
    """Return the name of this process in rows and logs."""
    return f"{kind}@{socket.gethostname()}:{os.getpid()}"


@contextmanager
def context_of(config: Config, url: str, vault: Vault, carrier: WorkerCarrier, kind: str) -> Iterator[Context]:
    """Make what actors work with, and close it at the end."""
    from prometheus_client import CollectorRegistry

    with ExitStack() as stack:
        database = Database(url, size=CONNECTIONS, origin=process_name(kind))
        stack.callback(database.close)
        sessions = Sessions(vault)
        stack.callback(sessions.close)
        stack.callback(carrier.close)
        yield Context(
            database=database,
            carrier=carrier,
            vault=vault,
            sessions=sessions,
            metrics=Metrics(CollectorRegistry()),
            worker=process_name(kind),
            notices=config.notices,
        )


@contextmanager
def metrics_server(config: Config, context: Context, say: Say, *, state: bool = False) -> Iterator[None]:
    """Serve the metrics of a process while it lasts, where the settings say so.

    Args:
        config: Where to.
        context: What the process works with.
        say: Says where they are.
        state: Whether this process also serves what only the database knows.
    """
    if config.metrics is None:
        yield
        return
    if state:
        from bootpoint_ops.gauge import StateCollector

        context.metrics.registry.register(StateCollector(context.database))
    try:
        port, close = serve(context.metrics.registry, config.metrics)
    except OSError as exc:
        # Several workers on one machine: the first one has the address. Work matters more than numbers.
        say(f"metrics are not served: {config.metrics.address}:{config.metrics.port}: {exc.strerror}")
        yield
        return
    say(f"metrics on http://{config.metrics.address}:{port}/metrics")
    try:
        yield
    finally:
        close()


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set; outside the main thread, where none arrive, an event alone."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _broker_url(config: Config) -> str:
    if config.broker_url is None:
        raise error(
            Code.SPEC_INVALID,
            "workers and schedulers of their own need a broker",
            key="BOOTPOINT_BROKER_URL",
            hint="set it to amqp://…; on one machine alone, `bootpoint up` needs none",
        )
    return config.broker_url


def run_worker(config: Config, pools: list[str], *, slices: int, tasks: int, say: Say) -> None:
    """Serve pools until a signal comes.

    Raises:
        UsageError: ``spec_invalid``: no broker is named, the installation's key is missing, or a file that the settings
            of notices name can't be used.
    """
    from bootpoint_common.stream import rabbit
    from bootpoint_worker.actors import make_broker
    from bootpoint_worker.notice.round import check
    from bootpoint_worker.service import WorkerService

    check(config.notices)
    allocator.reuse_buffers()
    log.configure(config.log_format, config.log_level)
    url, vault = _broker_url(config), open_vault(config.installation_key)
    rabbit.setup(url)
    with (
        until_signal() as stop,
        context_of(config, database_url(config), vault, rabbit.connect_worker(url), "worker") as context,
    ):
        service = WorkerService(context, make_broker(url), pools, slices=slices, tasks=tasks)
        with metrics_server(config, context, say):
            for pool in pools:
                context.metrics.worker_up.labels(pool=pool).set(1)
            service.start()
            say(f"worker serves {', '.join(pools)}; SIGTERM ends it")
            stop.wait()
            service.stop()


def run_scheduler(config: Config, *, say: Say) -> None:
    """Relay and reap until a signal comes; any number may run.

    Raises:
        UsageError: As `run_worker` does.
    """
    from bootpoint_common.stream import rabbit
    from bootpoint_worker.actors import make_broker
    from bootpoint_worker.notice.round import check
    from bootpoint_worker.service import ControlLoops

    check(config.notices)
    log.configure(config.log_format, config.log_level)
    url, vault = _broker_url(config), open_vault(config.installation_key)
    rabbit.setup(url)
    carrier = rabbit.connect_worker(url)
    with until_signal() as stop, context_of(config, database_url(config), vault, carrier, "scheduler") as context:
        loops = ControlLoops(context, make_broker(url), kind="scheduler")
        with metrics_server(config, context, say, state=True):
            loops.start()
            say("scheduler runs; SIGTERM ends it")
            stop.wait()
            loops.stop()
