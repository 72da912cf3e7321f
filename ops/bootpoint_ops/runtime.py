"""What the processes of the control plane are made of: a worker, a scheduler, and `up`, which is all in one."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from bootpoint_common import allocator, log
from bootpoint_common.config import Config, Listen
from bootpoint_common.crypto import Vault
from bootpoint_common.errors import Code, error
from bootpoint_common.store.database import Database
from bootpoint_common.stream.carrier import WorkerCarrier
from bootpoint_common.systemd import Manager
from bootpoint_common.tls import Trust, require_encryption
from bootpoint_ops.environment import database_url, open_vault
from bootpoint_worker.context import Context, Sessions

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from bootpoint_worker.trace import Traces

#: Connections of a process with all its threads.
CONNECTIONS = 24

#: The setting that says where metrics are served.
_METRICS = "BOOTPOINT_METRICS"

Say = Callable[[str], None]


def process_name(kind: str) -> str:
    """Return the name of this process in rows and logs."""
    return f"{kind}@{socket.gethostname()}:{os.getpid()}"


@contextmanager
def context_of(config: Config, url: str, vault: Vault, carrier: WorkerCarrier, kind: str) -> Iterator[Context]:
    """Make what actors work with, and close it at the end."""
    with ExitStack() as stack:
        database = Database(url, size=CONNECTIONS, origin=process_name(kind))
        stack.callback(database.close)
        sessions = Sessions(vault, nbd_tls=config.nbd_tls)
        stack.callback(sessions.close)
        stack.callback(carrier.close)
        yield Context(
            database=database,
            carrier=carrier,
            vault=vault,
            sessions=sessions,
            worker=process_name(kind),
            notices=config.notices,
            traces=_traces(config, kind, stack),
        )


def _traces(config: Config, kind: str, stack: ExitStack) -> Traces | None:
    """Make what sends traces of runs, where the settings name somebody who collects them."""
    if config.traces is None:
        return None
    from bootpoint_worker.trace import Traces

    made = Traces(process_name(kind))
    stack.callback(made.close)
    return made


@contextmanager
def metrics_server(
    config: Config, context: Context, registry: CollectorRegistry, say: Say, *, state: bool = False
) -> Iterator[None]:
    """Serve the metrics of a process while it lasts, where the settings say so.

    Args:
        config: Where to: a process that doesn't serve the installation's takes the first free port above.
        context: What the process works with.
        registry: The metrics of the process.
        say: Says where they are.
        state: Whether this process also serves those of the installation.

    Raises:
        FatalError: ``tls_refused``: the certificates that they are to be served with can't be used.
    """
    from bootpoint_ops.exposition import Picture, application, serve

    if config.metrics is None:
        yield
        return
    picture = Picture(context.database) if state else None
    try:
        port, close = serve(application(registry, picture), config.metrics, config.metrics_tls, above=not state)
    except OSError as exc:
        # Work matters more than numbers.
        say(f"metrics are not served: {config.metrics.address}:{config.metrics.port}: {exc.strerror}")
        yield
        return
    with ExitStack() as stack:
        stack.callback(close)
        if picture is not None:
            picture.start()
            stack.callback(picture.stop)
        say(_where(config, Listen(config.metrics.address, port)))
        if not state:
            context.served_at = _reached_at(Listen(config.metrics.address, port))
        yield


def _where(config: Config, listen: Listen) -> str:
    """Say where metrics are read."""
    scheme = "http" if config.metrics_tls is None else "https"
    return f"metrics on {scheme}://{listen.address}:{listen.port}/metrics"


def _reached_at(listen: Listen) -> str:
    """Return where others reach a server that listens: one that does so everywhere, by the name of this machine."""
    anywhere = listen.address in ("0.0.0.0", "::")  # noqa: S104 - asks, doesn't bind
    address = socket.gethostname() if anywhere else listen.address
    return f"[{address}]:{listen.port}" if ":" in address else f"{address}:{listen.port}"


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


def broker_trust(config: Config) -> Trust:
    """Return whom connections to the broker believe, and what they show.

    Raises:
        FatalError: ``tls_refused``: the certificates can't be used, or there are some and the broker's URL is plain.
    """
    trust = Trust(folder=config.broker_tls)
    if config.broker_url is not None:
        require_encryption(config.broker_url, trust, key="BOOTPOINT_BROKER_URL")
        trust.context()
    return trust


def _broker_url(config: Config) -> str:
    if config.broker_url is None:
        raise error(
            Code.SPEC_INVALID,
            "workers and schedulers of their own need a broker",
            key="BOOTPOINT_BROKER_URL",
            hint="set it to amqp://…; on one machine alone, `bootpoint up` needs none",
        )
    return config.broker_url


def run_worker(config: Config, pools: list[str], *, slices: int, tasks: int, manager: Manager, say: Say) -> None:
    """Serve pools until a signal comes.

    Raises:
        UsageError: ``spec_invalid``: no broker is named, the installation's key is missing, or a file that the settings
            of notices name can't be used.
    """
    from bootpoint_common.stream import rabbit
    from bootpoint_ops.exposition import process_registry
    from bootpoint_worker.actors import make_broker
    from bootpoint_worker.notice.round import check
    from bootpoint_worker.service import WorkerService

    check(config.notices)
    allocator.reuse_buffers()
    log.configure(config.log_format, config.log_level)
    url, vault = _broker_url(config), open_vault(config.installation_key)
    trust = broker_trust(config)
    rabbit.setup(url, trust)
    with (
        until_signal() as stop,
        context_of(config, database_url(config), vault, rabbit.connect_worker(url, trust), "worker") as context,
    ):
        registry = process_registry()
        service = WorkerService(context, make_broker(url, trust, registry), pools, slices=slices, tasks=tasks)
        with metrics_server(config, context, registry, say):
            service.start()
            say(f"worker serves {', '.join(pools)}; SIGTERM ends it")
            manager.attend(stop, service.stuck)
            service.stop()


def run_scheduler(config: Config, *, manager: Manager, say: Say) -> None:
    """Relay and reap until a signal comes; any number may run.

    Raises:
        UsageError: As `run_worker` does.
    """
    from bootpoint_common.stream import rabbit
    from bootpoint_ops.exposition import process_registry
    from bootpoint_worker.actors import make_broker
    from bootpoint_worker.notice.round import check
    from bootpoint_worker.service import ControlLoops

    check(config.notices)
    log.configure(config.log_format, config.log_level)
    url, vault = _broker_url(config), open_vault(config.installation_key)
    trust = broker_trust(config)
    rabbit.setup(url, trust)
    carrier = rabbit.connect_worker(url, trust)
    with until_signal() as stop, context_of(config, database_url(config), vault, carrier, "scheduler") as context:
        registry = process_registry()
        loops = ControlLoops(context, make_broker(url, trust, registry), kind="scheduler")
        with metrics_server(config, context, registry, say):
            loops.start()
            say("scheduler runs; SIGTERM ends it")
            manager.attend(stop, loops.stuck)
            loops.stop()


def run_exporter(config: Config, *, manager: Manager, say: Say) -> None:
    """Serve the metrics of the installation until a signal comes; needs the database only.

    Raises:
        UsageError: ``spec_invalid``: metrics are off, their address is taken or not this machine's.
        FatalError: ``tls_refused``: certificates can't be used.
    """
    from bootpoint_ops.exposition import Picture, application, process_registry, serve

    log.configure(config.log_format, config.log_level)
    listen = config.metrics
    if listen is None:
        hint = "set it to ADDRESS:PORT, or unset it"
        raise error(Code.SPEC_INVALID, "the exporter has nowhere to serve: metrics are off", key=_METRICS, hint=hint)
    with until_signal() as stop, ExitStack() as stack:
        database = Database(database_url(config), size=2, origin=process_name("exporter"))
        stack.callback(database.close)
        picture = Picture(database)
        try:
            port, close = serve(application(process_registry(), picture), listen, config.metrics_tls)
        except OSError as exc:
            text = f"the exporter can't listen on {listen.address}:{listen.port}: {exc.strerror}"
            hint = "another exporter, or `bootpoint up`, may run there: end it, or name another address"
            raise error(Code.SPEC_INVALID, text, key=_METRICS, value=str(listen.port), hint=hint) from exc
        stack.callback(close)
        picture.start()
        stack.callback(picture.stop)
        say(_where(config, Listen(listen.address, port)))
        say("exporter runs; SIGTERM ends it")
        # It is asked every few seconds: that it hangs is seen by who asks, and no watchdog is needed.
        manager.attend(stop, lambda _: None)
