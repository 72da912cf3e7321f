"""`bootpoint up`: the whole of bootpoint in one process, with no server to install.

PostgreSQL comes from the wheel unless a database is named, bundles go through memory unless a broker is named. The
agent of this machine joins by itself, and workers serve every pool.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from bootpoint_common import allocator, log, machine
from bootpoint_common.config import AgentConfig, Config
from bootpoint_common.crypto import AgentKey, Vault
from bootpoint_common.store import agent as agents
from bootpoint_common.store import event
from bootpoint_common.store.database import Connection, Database, one, rows, run
from bootpoint_common.store.migration import migrate
from bootpoint_common.stream.carrier import AgentCarrier, WorkerCarrier
from bootpoint_ops.embedded import Embedded, only_one
from bootpoint_ops.environment import open_vault, reached
from bootpoint_ops.exposition import process_registry
from bootpoint_ops.runtime import Say, broker_trust, context_of, metrics_server, until_signal
from bootpoint_producer.agent import Agent
from bootpoint_producer.state import AgentState, Identity
from bootpoint_worker.actors import make_broker
from bootpoint_worker.context import PORTS, Context
from bootpoint_worker.notice.round import check
from bootpoint_worker.reaper import restart
from bootpoint_worker.service import WorkerService

#: Home pool of the agent of this machine.
HOME_POOL = "kvm"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be said to `up`.

    Attributes:
        agent: Name of this machine's agent; None for its hostname.
        files: Raw disk files that may be sources, beside those of the agent's configuration.
        agent_config: The agent's configuration file; None for the one of the system.
    """

    agent: str | None = None
    files: tuple[str, ...] = ()
    agent_config: Path | None = None
    pools: tuple[str, ...] = field(default_factory=lambda: tuple(PORTS))


def up(config: Config, options: Options, *, say: Say) -> None:
    """Run everything until a signal comes.

    Args:
        config: The settings.
        options: What was said on the command line.
        say: Told what is done, a line at a time.

    Raises:
        BootpointError: It can't: another `up` runs, the database doesn't start, the agent is a copy.
    """
    allocator.reuse_buffers()
    log.configure(config.log_format, config.log_level)
    with until_signal() as stop, running(config, options, say=say):
        say("bootpoint is up; Ctrl-C or SIGTERM ends it")
        stop.wait()
        say("ending: runs that are under way are given up, what is committing is finished at the next start")


@contextmanager
def running(config: Config, options: Options, *, say: Say) -> Iterator[Context]:
    """Run everything while the context lasts."""
    check(config.notices)
    state = config.state_directory
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(only_one(state))
        vault = open_vault(config.installation_key, create=True)
        url = stack.enter_context(_database(config, say))
        worker_carrier, agent_carrier = _carriers(config, options)
        context = stack.enter_context(context_of(config, url, vault, worker_carrier, "up"))
        with context.database.transaction() as connection:
            run(connection, "INSERT INTO installation (id) VALUES (%s) ON CONFLICT DO NOTHING", uuid4())
        if config.broker_url is None:
            restart(context)
        registry = process_registry()
        stack.enter_context(metrics_server(config, context, registry, say, state=True))
        broker = make_broker(config.broker_url, broker_trust(config), registry)
        service = WorkerService(context, broker, _pools(context.database, options), kind="up")
        agent = _agent(config, options, context, agent_carrier)
        service.start()
        stack.callback(service.stop)
        agent.start()
        stack.callback(agent.stop)
        say(f"agent {agent_name(options)} protects disks of this machine")
        yield context


@contextmanager
def _database(config: Config, say: Say) -> Iterator[str]:
    with ExitStack() as stack:
        url = config.database_url
        if url is None:
            server = Embedded(config.state_directory)
            stack.callback(server.stop)
            url = server.start()
            say(f"PostgreSQL runs in {config.state_directory / 'postgres'}")
        else:
            url = reached(config, url)
        done = migrate(url)
        if done:
            say(f"database brought up to date: {', '.join(name.removesuffix('.sql') for name in done)}")
        yield url


def _carriers(config: Config, options: Options) -> tuple[WorkerCarrier, AgentCarrier]:
    name = agent_name(options)
    if config.broker_url is None:
        from bootpoint_common.stream.memory import MemoryBroker

        broker = MemoryBroker()
        return broker.worker_carrier(), broker.agent_carrier(name)
    from bootpoint_common.stream import rabbit

    trust = broker_trust(config)
    rabbit.setup(config.broker_url, trust)
    return rabbit.connect_worker(config.broker_url, trust), rabbit.connect_agent(config.broker_url, name, trust)


def _pools(database: Database, options: Options) -> list[str]:
    """Return every pool: the hosts', and the kinds' own for hosts that are added later."""
    with database.transaction() as connection:
        used = [
            row["pool"] for row in rows(connection, "SELECT pool FROM host UNION SELECT pool FROM replica ORDER BY 1")
        ]
    return [HOME_POOL, *(pool for pool in dict.fromkeys((*options.pools, *used)) if pool != HOME_POOL)]


def agent_name(options: Options) -> str:
    """Return the name of this machine's agent."""
    return (
        options.agent or re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0]).strip("-_") or "local"
    )


def _agent(config: Config, options: Options, context: Context, carrier: AgentCarrier) -> Agent:
    settings = AgentConfig.read(options.agent_config) if options.agent_config is not None else AgentConfig.read()
    files = tuple(dict.fromkeys((*settings.files, *(f"file:{Path(file).absolute()}" for file in options.files))))
    settings = replace(settings, state_directory=config.state_directory / "agent", files=files)
    state, name = AgentState(settings.state_directory), agent_name(options)
    with context.database.transaction() as connection:
        join(connection, context.vault, state, name)
    context.carrier.declare_pool(HOME_POOL)
    context.carrier.declare_agent(name)
    return Agent(state, settings, carrier, broker_stays=config.broker_url is not None)


def join(connection: Connection, vault: Vault, state: AgentState, name: str) -> None:
    """Let this machine's agent join without a token: whoever runs `up` holds both ends.

    Nothing is done where both ends know the same key.
    """
    here = machine.identity()
    identity, found = state.identity(), agents.find(connection, name, lock=True)
    if identity is not None and identity.name == name and found is not None:
        known = found.current_key(vault)
        if known is not None and known.secret == identity.key.secret:
            return
    if found is None:
        secret = vault.encrypt(agents.join_purpose(name), secrets.token_bytes(32))
        agents.enroll(connection, name, HOME_POOL, secret)
    last = one(connection, "SELECT coalesce(key_id, 0) AS key_id FROM agent WHERE name = %s", name)
    key = AgentKey((last["key_id"] if last is not None else 0) + 1, secrets.token_bytes(32))
    state.keep_identity(Identity(name, HOME_POOL, "", key, here))
    agents.joined(connection, name, key.key_id, vault.encrypt(agents.key_purpose(name), key.secret), here)
    event.record(connection, "agent_joined", f"agent {name} joined", actor="up", agent=name, details={"machine": here})
