"""An installation over RabbitMQ with an agent whose runs are looked at, and another one that misuses its own login."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common import message
from bootpoint_common.metric import REFUSED
from bootpoint_common.store.database import Row
from bootpoint_common.stream.carrier import Undeliverable
from bootpoint_common.stream.rabbit import agent_permissions, connect_agent
from bootpoint_common.stream.rabbit_access import parameters
from bootpoint_common.stream.rabbit_part import AGENT_EXCHANGE, RabbitPublisher
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.state import AgentState
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import Fleet, fleet
from tests.service.forger import Forger
from tests.service.rabbit_fleet import RabbitBroker, rabbit_broker
from tests.service.rabbitmq import VirtualHost

#: The agent whose run is to be disturbed, and the one that misuses its own rights.
VICTIM, MALLORY = "victim", "mallory"

#: Pool of both.
POOL = "fake"

#: Messages that Mallory sends before she waits for the broker's answer: the interpreter is the workers' as well.
AT_ONCE = 200

#: Size of the victim's disk, and grains that change between two runs.
SIZE, CHANGED = 16 * MiB, 32


@dataclass
class Besieged:
    """The installation, the victim's job, and what Mallory holds.

    Attributes:
        fleet: A worker, the victim's agent.
        broker: Its RabbitMQ.
        source: The victim's disk.
        job: The victim's job.
        host: Name of its fake host.
        forger: Makes Mallory's messages.
        url: AMQP URL of Mallory's login.
        rng: Decides what the victim writes.
    """

    fleet: Fleet
    broker: RabbitBroker
    source: Path
    job: int
    host: str
    forger: Forger
    url: str
    rng: random.Random

    def write(self) -> None:
        """Change the victim's disk."""
        with self.source.open("r+b") as stream:
            for grain in self.rng.sample(range(SIZE // GRAIN), CHANGED):
                stream.seek(grain * GRAIN)
                stream.write(self.rng.randbytes(GRAIN))

    def protect(self, seconds: float = 60.0) -> float:
        """Change the victim's disk, let a run of it succeed, compare the point, and return how long the run took."""
        self.write()
        began = time.monotonic()
        self.fleet.wait(self.fleet.run(self.job), seconds=seconds)
        took = time.monotonic() - began
        assert self.newest_equals_source()
        return took

    def newest_equals_source(self) -> bool:
        """Tell whether the victim's newest boot point is what its disk is now."""
        replica = self.fleet.row("SELECT id FROM replica WHERE job_id = %s", self.job)
        assert replica is not None
        newest = self.fleet.points(self.job)[-1]
        return FakeHost.at(self.host).content(replica["id"], newest.id, "system") == self.source.read_bytes()

    def publish(self, bodies: Iterator[bytes], key: str = f"{MALLORY}.control.{POOL}") -> None:
        """Publish as Mallory, hundreds at once, and return when the broker has answered for all of them."""
        publisher = RabbitPublisher(parameters(self.url, "mallory: flood"))
        with closing(publisher):
            publisher.open()
            for number, body in enumerate(bodies, 1):
                publisher.publish_to(AGENT_EXCHANGE, key, body)
                if number % AT_ONCE == 0:
                    self._await(publisher, key)
            self._await(publisher, key)

    def _await(self, publisher: RabbitPublisher, key: str) -> None:
        with suppress(Undeliverable):  # the ingress is full: then it was refused, which is an answer
            publisher.send(AGENT_EXCHANGE, key, b"")

    def heartbeats(self, count: int) -> Iterator[bytes]:
        """Make right messages: each costs whoever takes it a decryption and a transaction."""
        return (self.forger.envelope(message.Heartbeat()) for _ in range(count))

    @contextmanager
    def flooding(self, bodies: list[bytes]) -> Iterator[None]:
        """Let Mallory say the same again and again while the context lasts."""
        ended = threading.Event()

        def endless() -> Iterator[bytes]:
            while not ended.is_set():
                yield from bodies

        thread = threading.Thread(target=self.publish, args=(endless(),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(60.0)

    def refused(self, reason: str) -> float:
        """Return how many messages the workers have refused for a reason."""
        return self.fleet.counted(REFUSED, reason)

    def history(self) -> list[Row]:
        """Return what the history holds of refusals, oldest first."""
        return self.fleet.rows("SELECT actor, details FROM event WHERE kind = 'message_refused' ORDER BY id")


@contextmanager
def besieged(database: str, vhost: VirtualHost, directory: Path, rng: random.Random) -> Iterator[Besieged]:
    """Make it, with the victim's first point."""
    source, host = directory / "victim.raw", f"fake-{directory.name}"
    with source.open("wb") as stream:
        stream.truncate(SIZE)
    with rabbit_broker(vhost) as broker, fleet(database, directory, broker) as made:
        made.add_worker("w1")
        host_id = made.add_host(host)
        made.add_agent(VICTIM, [source])
        made.enroll_agent(MALLORY)
        identity = AgentState(directory / f"agent-{MALLORY}").identity()
        assert identity is not None
        url = vhost.login(f"{vhost.name}-{MALLORY}", agent_permissions(MALLORY))
        made.services[0]._context.carrier.declare_agent(MALLORY)
        forger = Forger(identity, POOL)
        job = made.add_job(VICTIM, VICTIM, {"system": source}, host_id)
        scene = Besieged(made, broker, source, job, host, forger, url, rng)
        with closing(connect_agent(url, MALLORY)) as carrier:
            carrier.send(POOL, forger.envelope(forger.hello(machine=identity.machine)))
        scene.protect()
        yield scene
