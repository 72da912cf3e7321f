"""The way to the broker takes long, as with a slow name server: nobody waits for it with rows locked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest

from bootpoint_common import message
from bootpoint_common.cipher import AgentKey
from bootpoint_common.envelope import seal_join
from bootpoint_common.identity import new_id
from bootpoint_common.store import agent as agents
from bootpoint_common.store import outbox
from bootpoint_common.store.database import Database, one_row, present
from bootpoint_common.stream.carrier import Delivery
from bootpoint_common.stream.rabbit import connect_worker, setup
from bootpoint_common.vault import Vault
from bootpoint_producer.state import Identity
from bootpoint_worker import actors
from bootpoint_worker.context import Context, Sessions
from bootpoint_worker.ingress import Ingress
from bootpoint_worker.relay import relay_once
from tests.service.door import Door, door
from tests.service.fleet import MACHINE
from tests.service.forger import Forger
from tests.service.process import PATIENCE, wait_for
from tests.service.rabbitmq import VirtualHost

NAME, POOL = "erp-db", "fake"


@dataclass
class Scene:
    """A worker process without its threads, and the door between it and the broker."""

    vhost: VirtualHost
    database: Database
    vault: Vault
    door: Door
    thread: ThreadPoolExecutor

    def url(self, *, slow: bool) -> str:
        """Return the broker's URL, through the door where that is to be slow."""
        port = self.vhost.broker.port
        return self.vhost.url.replace(f":{port}/", f":{self.door.port if slow else port}/")

    @contextmanager
    def context(self, *, slow: bool) -> Iterator[Context]:
        """Give what the process works with."""
        with closing(connect_worker(self.url(slow=slow))) as carrier:
            yield Context(self.database, carrier, self.vault, Sessions(self.vault), "w1")

    def waits_without_a_transaction(self, work: Callable[[], object]) -> None:
        """Let work be done until it stands at the door, look, and let it in."""
        done = self.thread.submit(work)
        wait_for(self.door.knocked, "somebody at the door")
        idle = self.count("pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'")
        self.door.open()
        done.result(PATIENCE)
        assert idle == 0

    def count(self, of: str) -> int:
        """Count rows."""
        with self.database.transaction() as connection:
            return int(one_row(connection, f"SELECT count(*) AS n FROM {of}")["n"])


@pytest.fixture
def scene(database: str, vhost: VirtualHost) -> Iterator[Scene]:
    setup(vhost.url)
    with (
        door(vhost.broker.port) as closed,
        closing(Database(database)) as rows,
        ThreadPoolExecutor(1) as thread,
    ):
        yield Scene(vhost, rows, Vault(os.urandom(32)), closed, thread)


def enroll(scene: Scene) -> Forger:
    """Write an agent that has joined, and return it."""
    key = AgentKey(1, os.urandom(32))
    with scene.database.transaction() as connection:
        agents.enroll(connection, NAME, POOL, b"")
        agents.joined(connection, NAME, 1, scene.vault.encrypt(agents.key_purpose(NAME), key.secret), MACHINE)
    return Forger(Identity(NAME, POOL, "", key, MACHINE), POOL)


@pytest.mark.parametrize("slow", ["messages", "tasks"])
def test_a_relay_connects_before_it_takes_rows_and_again_after_the_broker_was_away(scene: Scene, slow: str) -> None:
    agent = enroll(scene)
    broker = actors.make_broker(scene.url(slow=slow == "tasks"))
    with scene.context(slow=slow == "messages") as context, closing(broker):

        def relay() -> None:
            assert relay_once(context, actors.sender(broker), lambda: actors.connect(broker)) == 2

        with closing(connect_worker(scene.vhost.url)) as other:
            other.declare_agent(NAME)
        for _ in range(2):
            with scene.database.transaction() as connection:
                outbox.task(connection, POOL, "abort", new_id())
                welcome = message.Welcome(incarnation=agent.incarnation, now=present(connection))
                outbox.tell(connection, NAME, new_id(), welcome)
            scene.waits_without_a_transaction(relay)
            scene.door.slam()
    assert scene.count("outbox") == 0


@pytest.mark.parametrize("says", ["hello", "join"])
def test_an_agents_queue_is_made_before_its_row_is_locked(scene: Scene, says: str) -> None:
    if says == "hello":
        agent = enroll(scene)
        body = agent.envelope(agent.hello(machine=MACHINE))
    else:
        body = enroll_and_join(scene)
    with scene.context(slow=True) as context:
        said = Delivery(1, body, route=message.control_route(NAME, POOL))
        scene.waits_without_a_transaction(lambda: Ingress(context, POOL).handle(said))
        assert not context.tally.take()
    assert scene.count("outbox WHERE kind = 'tell Welcome'") == 1
    with closing(connect_worker(scene.vhost.url)) as carrier:
        carrier.send(NAME, b"there is a queue")


def enroll_and_join(scene: Scene) -> bytes:
    """Write an agent's token, and return what the machine says that has it."""
    secret = os.urandom(32)
    with scene.database.transaction() as connection:
        agents.enroll(connection, NAME, POOL, scene.vault.encrypt(agents.join_purpose(NAME), secret))
    join = message.Join(
        protocol=message.PROTOCOL,
        version="0",
        key_id=1,
        key=os.urandom(32),
        incarnation=new_id(),
        machine=MACHINE,
    )
    return seal_join(secret, NAME, message.control_route(NAME, POOL), message.encode_join(join))
