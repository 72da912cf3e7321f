"""What an agent may send: no more than its credit while nobody works, and nothing that breaks a rule."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
import zstandard

from bootpoint_common import metric
from bootpoint_common.bundle import MAX_BODY, MAX_RAW, Kind, Sealer, encode, peek
from bootpoint_common.cipher import AgentKey, Direction, Reject
from bootpoint_common.extent import Extent
from bootpoint_common.frame import EXTENT, HEADER, INNER, Codec
from bootpoint_common.store.database import Row
from bootpoint_common.stream import rabbit
from bootpoint_common.stream.carrier import AgentCarrier, Confirmed, Consumer, Refused, StreamPublisher, WorkerCarrier
from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.agent import Agent
from bootpoint_producer.state import AgentState
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import Broker, Fleet, fleet
from tests.service.postgres import PostgresServer
from tests.service.process import wait_for
from tests.service.rabbitmq import VirtualHost

#: Credit window, so small that little data fills it.
WINDOW = 4 * MiB

#: Size of the source: several windows; and where it needs not be so large.
LARGE, SIZE = 24 * MiB, 4 * MiB


def source(directory: Path, rng: Random, size: int) -> Path:
    """Make a disk that no compression makes smaller."""
    path = directory / "system.raw"
    path.write_bytes(rng.randbytes(size))
    return path


def content(installation: Fleet, job_id: int, host: str, point_id: UUID) -> bytes:
    row = installation.row("SELECT id FROM replica WHERE job_id = %s", job_id)
    assert row is not None
    return FakeHost.at(host).content(row["id"], point_id, "system")


# --- credit -----------------------------------------------------------------------------------------------------------


class RabbitBroker:
    """RabbitMQ as the fleet's broker; ends its connections at the end."""

    def __init__(self, vhost: VirtualHost) -> None:
        self._url = vhost.url
        self._made: list[AgentCarrier | WorkerCarrier] = []
        rabbit.setup(self._url)

    def agent_carrier(self, agent: str) -> AgentCarrier:
        self._made.append(carrier := rabbit.connect_agent(self._url, agent))
        return carrier

    def worker_carrier(self) -> WorkerCarrier:
        self._made.append(carrier := rabbit.connect_worker(self._url))
        return carrier

    def close(self) -> None:
        for carrier in self._made:
            carrier.close()


@dataclass(frozen=True, slots=True)
class Carried:
    """An installation over one kind of broker.

    Attributes:
        fleet: The installation.
        waiting: Returns the bytes that wait in a stream.
    """

    fleet: Fleet
    waiting: Callable[[UUID], int]


@pytest.fixture(params=["memory", "rabbitmq"])
def carried(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[Carried]:
    if request.param == "memory":
        memory = MemoryBroker()
        with fleet(database, tmp_path, memory) as made:
            yield Carried(made, lambda stream: sum(len(body) for body, _, _ in memory._state.streams[stream].messages))
        return
    vhost: VirtualHost = request.getfixturevalue("vhost")
    broker = RabbitBroker(vhost)

    def waiting(stream: UUID) -> int:
        listed = vhost.broker.ctl("list_queues", "-p", vhost.name, "name", "message_bytes")
        sizes = dict(line.split("\t") for line in listed.splitlines())
        return int(sizes[f"stream.{stream}"])

    try:
        with fleet(database, tmp_path, broker) as made:
            yield Carried(made, waiting)
    finally:
        broker.close()


def test_while_no_worker_runs_a_stream_holds_no_more_than_its_credit(
    carried: Carried, tmp_path: Path, rng: Random
) -> None:
    installation, host = carried.fleet, f"fake-{tmp_path.name}"
    worker = installation.add_worker("w1", window_bytes=WINDOW)
    host_id = installation.add_host(host)
    disk = source(tmp_path, rng, LARGE)
    agent = installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    run = installation.run(job_id)
    query = (
        "SELECT d.id, d.watermark_bytes FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " WHERE p.run_uid = %s AND p.state = 'open'"
    )
    stream: UUID = installation.wait_until(lambda: installation.row(query, run.uid))["id"]
    installation.stop(worker)

    def outlet_waits() -> bool:
        return any(channel._outlet.starved_seconds > 1.0 for channel in channels(agent))

    wait_for(outlet_waits, "the agent to use up its credit")
    at_rest = installation.row(query, run.uid)
    assert at_rest is not None
    assert at_rest["watermark_bytes"] + WINDOW < LARGE, "the worker was too quick: the credit held nothing back"
    assert WINDOW - MAX_BODY < carried.waiting(stream) <= WINDOW
    # It has asked for more since, and nobody answered.
    wait_for(lambda: any(channel._asked_at for channel in channels(agent)), "the agent to ask for credit")
    assert carried.waiting(stream) <= WINDOW

    installation.add_worker("w2", window_bytes=WINDOW)
    installation.wait(run)
    (point,) = installation.points(job_id)
    assert content(installation, job_id, host, point.id) == disk.read_bytes()


def channels(agent: Agent) -> list[Any]:
    """Return what an agent's only run sends through."""
    (going,) = agent._runs.values()
    assert going._publication is not None
    return [channel for replica in going._publication._replicas.values() for channel in replica.channels]


# --- rules ------------------------------------------------------------------------------------------------------------

#: What the history says of a point that was given up for a bundle, and of a bundle that was dropped.
ABORTED, REFUSED = ("point_aborted", "bundle_rejected"), ("bundle_refused", "bundle_rejected")

#: Given a bundle and the agent's key: what is published before it, and what in its place.
Meddle = Callable[[bytes, AgentKey], tuple[list[bytes], bytes]]


@dataclass
class MeddlingPublisher:
    """A publisher that publishes something else now and then."""

    inner: StreamPublisher
    second: StreamPublisher
    meddle: Callable[[bytes], tuple[list[bytes], bytes]]

    def publish(self, stream: UUID, body: bytes) -> int:
        before, instead = self.meddle(body)
        for one in before:
            self.second.publish(stream, one)
        return self.inner.publish(stream, instead)

    def poll(self, timeout: float) -> list[Confirmed | Refused]:
        return self.inner.poll(timeout)

    def wake(self) -> None:
        self.inner.wake()

    def close(self) -> None:
        self.inner.close()
        self.second.close()


@dataclass
class MeddlingCarrier:
    """An agent's carrier with such a publisher."""

    inner: AgentCarrier
    meddle: Callable[[bytes], tuple[list[bytes], bytes]]

    def publisher(self) -> StreamPublisher:
        return MeddlingPublisher(self.inner.publisher(), self.inner.publisher(), self.meddle)

    def send(self, pool: str, body: bytes) -> None:
        self.inner.send(pool, body)

    def inbox(self) -> Consumer:
        return self.inner.inbox()

    @property
    def blocked(self) -> bool:
        return self.inner.blocked

    def close(self) -> None:
        self.inner.close()


@dataclass
class MeddlingBroker:
    """A broker in memory whose agents send what they should not, as long as a test wants it.

    Attributes:
        directory: Where the agents' states lie.
        meddle: What is done to the third bundle of a stream; None for nothing.
    """

    directory: Path
    meddle: Meddle | None = None
    inner: Broker = field(default_factory=MemoryBroker)

    def agent_carrier(self, agent: str) -> AgentCarrier:
        def change(body: bytes) -> tuple[list[bytes], bytes]:
            identity = AgentState(self.directory / f"agent-{agent}").identity()
            assert identity is not None
            if self.meddle is None or peek(body).sequence != 2:
                return [], body
            return self.meddle(body, identity.key)

        return MeddlingCarrier(self.inner.agent_carrier(agent), change)

    def worker_carrier(self) -> WorkerCarrier:
        return self.inner.worker_carrier()


@dataclass
class Bench:
    """An installation whose agent can be made to break rules."""

    fleet: Fleet
    broker: MeddlingBroker
    host: str
    disk: Path
    job_id: int

    def change(self, rng: Random) -> None:
        """Change all of the disk."""
        self.disk.write_bytes(rng.randbytes(SIZE))

    def protect(self) -> None:
        """Do a run that succeeds, and require that its point is what the disk is."""
        before = self.fleet.points(self.job_id)
        self.fleet.wait(self.fleet.run(self.job_id))
        after = self.fleet.points(self.job_id)
        assert after[:-1] == before
        assert content(self.fleet, self.job_id, self.host, after[-1].id) == self.disk.read_bytes()

    def events(self, kind: str, code: str) -> list[Row]:
        """Return what the history says of a kind, oldest first."""
        query = "SELECT agent, job, details->>'reason' AS reason FROM event WHERE kind = %s AND code = %s ORDER BY id"
        return self.fleet.rows(query, kind, code)

    def counted(self, reason: Reject) -> float:
        """Return how many refusals for a reason were counted."""
        return self.fleet.counted(metric.REFUSED, str(reason))


@pytest.fixture(scope="module")
def bench(
    postgres_server: PostgresServer, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """The installation that all rules are broken in, one after the other, with a first point."""
    directory = tmp_path_factory.mktemp("rules")
    broker, host, rng = MeddlingBroker(directory), f"fake-{directory.name}", Random(0)
    name = postgres_server.create_database(template_database)
    try:
        with fleet(postgres_server.url(name), directory, broker) as installation:
            installation.add_worker("w1", window_bytes=WINDOW)
            host_id = installation.add_host(host, settings={"point_limit": 100})
            disk = source(directory, rng, SIZE)
            installation.add_agent("erp", [disk])
            job_id = installation.add_job("erp", "erp", {"system": disk}, host_id, target={"points": 22})
            made = Bench(installation, broker, host, disk, job_id)
            made.protect()
            yield made
    finally:
        postgres_server.drop_database(name)


def sealed(body: bytes, key: AgentKey, encoded: bytes) -> bytes:
    """Encrypt something else in the place of a bundle."""
    header = peek(body)
    sealer = Sealer(key, header.point_id, header.point_disk_id)
    sealer.sequence, sealer.offset = header.sequence, header.offset
    return sealer.seal(encoded)


def packed(size: int, payload: bytes, *extents: tuple[int, int], codec: Codec = Codec.ZSTD) -> bytes:
    """Write a data bundle that claims a size, whatever its payload is."""
    table = b"".join(EXTENT.pack(offset, length) for offset, length in extents)
    return INNER.pack(Kind.DATA, codec, 0, len(extents), size) + table + payload


#: What an agent that has its key, and means ill, can put into a bundle.
RULES: dict[str, tuple[bytes, Reject]] = {
    "beyond-the-disk": (encode(Kind.DATA, [Extent(SIZE, GRAIN)], os.urandom(GRAIN)), Reject.EXTENT),
    "far-beyond-the-disk": (encode(Kind.DATA, [Extent(1 << 62, GRAIN)], os.urandom(GRAIN)), Reject.EXTENT),
    "over-the-end": (encode(Kind.DATA, [Extent(SIZE - GRAIN, 2 * GRAIN, zero=True)], b""), Reject.EXTENT),
    "unaligned": (encode(Kind.DATA, [Extent(512, GRAIN)], os.urandom(GRAIN)), Reject.EXTENT),
    "descending": (
        encode(Kind.DATA, [Extent(GRAIN, GRAIN), Extent(0, GRAIN)], os.urandom(2 * GRAIN)),
        Reject.EXTENT,
    ),
    "too-large": (
        packed(2 * MAX_RAW, zstandard.compress(bytes(2 * MAX_RAW)), (0, 2 * MAX_RAW)),
        Reject.INFLATE,
    ),
    "inflating": (packed(GRAIN, zstandard.compress(bytes(256 * MiB)), (0, GRAIN)), Reject.INFLATE),
    "inflating-unsaid": (
        packed(GRAIN, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * MiB)), (0, GRAIN)),
        Reject.INFLATE,
    ),
    "more-than-it-says": (packed(GRAIN, os.urandom(2 * GRAIN), (0, GRAIN), codec=Codec.STORED), Reject.INFLATE),
    "no-bundle": (b"\xff" * 64, Reject.MALFORMED),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_bundle_that_breaks_a_rule_ends_the_run_and_nothing_else(bench: Bench, rule: str, rng: Random) -> None:
    encoded, reason = RULES[rule]
    points, told, counted = bench.fleet.points(bench.job_id), bench.events(*ABORTED), bench.counted(reason)
    bench.change(rng)
    bench.broker.meddle = lambda body, key: ([], sealed(body, key, encoded))
    ended = bench.fleet.wait(bench.fleet.run(bench.job_id), state="failed")
    bench.broker.meddle = None
    assert ended["reason"] == "bundle_rejected"
    assert bench.fleet.points(bench.job_id) == points
    assert bench.events(*ABORTED) == [*told, {"agent": "erp", "job": "erp", "reason": None}]
    assert bench.counted(reason) == counted + 1
    bench.protect()


def altered(body: bytes, _key: AgentKey) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def other_key(body: bytes, key: AgentKey) -> bytes:
    return sealed(body, AgentKey(key.key_id, os.urandom(32)), os.urandom(64))


def with_header(**values: int | bytes) -> Callable[[bytes, AgentKey], bytes]:
    """Change fields of a bundle's header."""
    names = ("version", "direction", "zero", "key_id", "point", "disk", "sequence", "offset")

    def change(body: bytes, _key: AgentKey) -> bytes:
        fields = dict(zip(names, HEADER.unpack_from(body), strict=True)) | values
        return HEADER.pack(*(fields[name] for name in names)) + body[HEADER.size :]

    return change


#: What anybody can publish who has reached the stream without the agent's key.
FORGERIES: dict[str, tuple[Callable[[bytes, AgentKey], bytes], Reject]] = {
    "altered": (altered, Reject.ALTERED),
    "of-another-key": (other_key, Reject.ALTERED),
    "of-an-unknown-key": (with_header(key_id=9), Reject.KEY),
    "of-the-other-direction": (with_header(direction=int(Direction.TO_AGENT)), Reject.DIRECTION),
    "of-another-point": (with_header(point=bytes(16)), Reject.POINT),
    "of-another-disk": (with_header(disk=bytes(16)), Reject.POINT),
    "of-another-version": (with_header(version=9), Reject.VERSION),
    "truncated": (lambda body, _key: body[:40], Reject.TRUNCATED),
    "empty": (lambda _body, _key: b"", Reject.TRUNCATED),
    "oversized": (lambda body, _key: body + bytes(MAX_BODY), Reject.OVERSIZED),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_bundle_is_dropped_and_told_and_the_run_succeeds(bench: Bench, forgery: str, rng: Random) -> None:
    forge, reason = FORGERIES[forgery]
    told, counted = bench.events(*REFUSED), bench.counted(reason)
    bench.change(rng)
    bench.broker.meddle = lambda body, key: ([forge(body, key)] * 2, body)
    bench.protect()
    bench.broker.meddle = None
    assert bench.counted(reason) == counted + 2
    assert bench.events(*REFUSED) == [*told, *[{"agent": "erp", "job": "erp", "reason": str(reason)}] * 2]
