"""Go-back-N: whatever the broker says, every bundle arrives, once counted, in order, byte for byte."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootpoint_common.bundle import Kind, Opener, Place, Sealer, encode
from bootpoint_common.crypto import AgentKey
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.extent import Extent
from bootpoint_common.stream.carrier import CarrierLost, Confirmed, Refused
from bootpoint_common.stream.memory import MemoryBroker, MemoryWorkerCarrier
from bootpoint_common.stream.sender import StreamClosedError, StreamSender
from bootpoint_common.stream.window import RETRY_LAST, Window
from bootpoint_common.units import GRAIN
from tests.service.faulty import Faults, FaultyPublisher

STREAM = UUID("0193b3a0-0000-7000-8000-000000000002")
POINT = UUID("0193b3a0-0000-7000-8000-000000000001")
KEY = AgentKey(1, bytes(32))
ALL = 1 << 60


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """Publishes what a window gives, under rising tags, and remembers it."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.sent: list[bytes] = []

    def pump(self) -> list[bytes]:
        new = []
        while (body := self.window.next()) is not None:
            self.sent.append(body)
            new.append(body)
            self.window.published(len(self.sent))
        return new


def offered(window: Window, *bodies: bytes) -> Wire:
    for body in bodies:
        window.offer(body, window.offered_offset + len(body))
    return Wire(window)


def test_nothing_goes_beyond_the_credit_and_old_credit_takes_nothing_back() -> None:
    clock = Clock()
    wire = offered(window := Window(STREAM, clock=clock), b"aa", b"bb", b"cc")
    assert wire.pump() == []
    clock.now += 3
    assert (window.starved_seconds, window.credit_wait_seconds) == (3, 3)
    window.allow(4)
    assert wire.pump() == [b"aa", b"bb"]
    clock.now += 2
    window.allow(3)
    assert wire.pump() == []
    window.allow(5)
    assert wire.pump() == []
    window.allow(6)
    window.allow(5)
    assert wire.pump() == [b"cc"]
    clock.now += 7
    assert (window.starved_seconds, window.credit_wait_seconds) == (0, 5)


def test_a_confirmation_counts_only_with_all_before_it() -> None:
    wire = offered(window := Window(STREAM), b"a", b"b", b"c")
    window.allow(ALL)
    wire.pump()
    window.take(Confirmed(3))
    assert (window.confirmed_offset, window.drained) == (0, False)
    window.take(Confirmed(2, multiple=True))
    assert (window.confirmed_offset, window.drained) == (3, True)


def test_a_refusal_sends_everything_from_the_first_unconfirmed_again() -> None:
    clock = Clock()
    wire = offered(window := Window(STREAM, clock=clock), b"a", b"b", b"c", b"d")
    window.allow(ALL)
    wire.pump()
    for event in (Confirmed(1), Confirmed(3), Refused(2), Confirmed(4)):
        window.take(event)
    assert window.confirmed_offset == 1
    assert window.retry_seconds == pytest.approx(0.05)
    assert wire.pump() == []
    clock.now += 1
    assert wire.pump() == [b"b", b"c", b"d"]
    window.take(Confirmed(4, multiple=True))
    assert window.confirmed_offset == 1
    window.take(Confirmed(7, multiple=True))
    assert (window.confirmed_offset, window.drained, window.republished_bytes) == (4, True, 3)


def test_a_confirmation_from_before_a_refusal_counts_for_nothing() -> None:
    """The worker dropped c, which came before b: b's confirmation must not count c in."""
    clock = Clock()
    wire = offered(window := Window(STREAM, clock=clock), b"a", b"b", b"c")
    window.allow(ALL)
    wire.pump()
    for event in (Confirmed(1), Confirmed(3), Refused(2)):
        window.take(event)
    clock.now += 1
    assert window.next() == b"b"
    window.published(4)
    window.take(Confirmed(4))
    assert (window.confirmed_offset, window.drained) == (2, False)
    assert window.next() == b"c"


def test_a_stream_that_refuses_is_asked_ever_less_often() -> None:
    clock = Clock()
    wire = offered(window := Window(STREAM, clock=clock), b"a")
    window.allow(ALL)
    waits = []
    for _ in range(10):
        wire.pump()
        window.take(Refused(len(wire.sent), returned=True))
        assert window.returned
        waits.append(window.retry_seconds or 0)
        clock.now += waits[-1] + 0.001
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(RETRY_LAST)
    wire.pump()
    window.take(Confirmed(len(wire.sent)))
    assert not window.returned


def test_a_lost_connection_sends_everything_unconfirmed_again() -> None:
    wire = offered(window := Window(STREAM), b"a", b"b")
    window.allow(ALL)
    wire.pump()
    window.take(Confirmed(1))
    window.lost()
    window.take(Confirmed(2))
    assert window.confirmed_offset == 1
    assert wire.pump() == [b"b"]


def test_what_is_held_and_in_flight_is_bounded() -> None:
    window = Window(STREAM, hold_bytes=10, in_flight_bytes=4)
    wire = offered(window, *[b"xx"] * 5)
    window.allow(ALL)
    assert (window.room(1), len(wire.pump())) == (False, 2)
    window.take(Confirmed(1))
    assert (window.room(2), window.room(3), len(wire.pump())) == (True, False, 1)
    window.take(Confirmed(5, multiple=True))
    window.offer(b"yy", 12)
    assert window.held_bytes == 10
    big = Window(STREAM, hold_bytes=10, in_flight_bytes=4)
    assert big.room(100)
    wire = offered(big, b"z" * 100)
    big.allow(ALL)
    assert len(wire.pump()) == 1


def test_resend_goes_back_as_far_as_bytes_are_held_and_no_further() -> None:
    wire = offered(window := Window(STREAM, hold_bytes=4), b"a", b"b", b"c", b"d")
    window.allow(ALL)
    wire.pump()
    window.take(Confirmed(4, multiple=True))
    window.offer(b"e", 5)
    wire.pump()
    window.resend_from(2)
    assert wire.pump() == [b"c", b"d", b"e"]
    window.resend_from(77)
    assert wire.pump() == []
    assert (window.confirmed_offset, window.drained) == (4, False)
    with pytest.raises(BootpointError) as caught:
        window.resend_from(0)
    assert caught.value.code is Code.STREAM_GAP
    window.take(Confirmed(len(wire.sent), multiple=True))
    assert (window.confirmed_offset, window.drained) == (5, True)


def test_what_the_worker_has_got_counts_as_confirmed() -> None:
    wire = offered(window := Window(STREAM), b"a", b"b", b"c")
    window.allow(ALL)
    wire.pump()
    window.lost()
    wire.pump()
    window.resend_from(2)
    assert window.confirmed_offset == 2
    assert wire.pump() == [b"c"]
    window.take(Confirmed(7))
    assert window.drained


def test_what_was_published_before_something_refused_may_still_be_confirmed() -> None:
    clock = Clock()
    wire = offered(window := Window(STREAM, clock=clock), b"a", b"b", b"c")
    window.allow(ALL)
    wire.pump()
    window.take(Refused(2))
    clock.now += 1
    assert wire.pump() == [b"b", b"c"]
    window.take(Confirmed(1))
    assert window.confirmed_offset == 1
    window.take(Confirmed(5, multiple=True))
    assert window.drained


def test_only_the_next_bundle_may_be_offered() -> None:
    window = Window(STREAM)
    with pytest.raises(ValueError, match="expected was 1"):
        window.offer(b"a", 2)


class Model:
    """A window, and a broker that is a queue: it has what it confirmed, and maybe what it didn't."""

    def __init__(self, random: Random) -> None:
        self.clock = Clock()
        self.window = Window(STREAM, hold_bytes=40, in_flight_bytes=20, clock=self.clock)
        self.random = random
        self.count = self.tag = 0
        self.flight: list[tuple[int, bytes]] = []
        self.queue: list[bytes] = []
        self.said: list[Confirmed | Refused] = []

    def offer(self) -> None:
        body = f"{self.count:04}".encode()
        if self.window.room(len(body)):
            self.window.offer(body, self.window.offered_offset + len(body))
            self.count += 1

    def publish(self) -> None:
        self.clock.now += 10
        body = self.window.next()
        if body is not None:
            self.tag += 1
            self.window.published(self.tag)
            self.flight.append((self.tag, body))

    def confirm(self, number: int = 1) -> None:
        taken = [self.flight.pop(0) for _ in range(min(number, len(self.flight)))]
        self.queue.extend(body for _, body in taken)
        if taken:
            self.window.take(Confirmed(taken[-1][0], multiple=number > 1 and not self.said))
            if number > 1 and self.said:
                self.said.extend(Confirmed(tag) for tag, _ in taken[:-1])

    def answer(self) -> None:
        """Take some and refuse some; the news of it comes later, in any order."""
        for _ in range(self.random.randint(0, len(self.flight))):
            tag, body = self.flight.pop(0)
            taken = self.random.random() < 0.8
            if taken:
                self.queue.append(body)
            self.said.append(Confirmed(tag) if taken else Refused(tag))
        self.random.shuffle(self.said)

    def hear(self) -> None:
        if self.said:
            self.window.take(self.said.pop())

    def confirm_many(self) -> None:
        self.confirm(self.random.randint(2, 4))

    def refuse(self) -> None:
        """Refuse any of those in flight; those published after it may reach the queue all the same."""
        if self.flight:
            self.window.take(Refused(self.flight.pop(self.random.randrange(len(self.flight)))[0]))

    def lose(self) -> None:
        self.queue.extend(body for _, body in self.flight[: self.random.randint(0, len(self.flight))])
        self.flight.clear()
        self.said.clear()
        self.window.lost()

    def credit(self) -> None:
        self.window.allow(self.random.randint(0, 400))

    def resend(self) -> None:
        first = self.received()
        if first * 4 >= self.window.offered_offset - self.window.held_bytes:
            self.window.resend_from(first)

    def received(self) -> int:
        """Count what a receiver gets that takes the next one and drops all others."""
        following = 0
        for body in self.queue:
            following += body == f"{following:04}".encode()
        return following


STEPS = ["offer"] * 4 + ["publish"] * 3 + ["confirm"] * 2
STEPS += ["confirm_many", "answer", "hear", "hear", "hear", "refuse", "lose", "credit", "credit", "resend"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(STEPS), max_size=120), st.randoms(use_true_random=False))
def test_whatever_happens_the_receiver_gets_all_in_order(steps: list[str], random: Random) -> None:
    model = Model(random)
    for step in steps:
        getattr(model, step)()
        assert model.window.held_bytes <= 40
        # What counts as confirmed is in the queue, in order: the worker needs nothing else to go on.
        assert model.received() * 4 >= model.window.confirmed_offset
    model.window.allow(ALL)
    while not model.window.drained:
        model.publish()
        model.hear()
        model.confirm()
    assert model.received() == model.count
    assert model.window.confirmed_offset == model.count * 4


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(refuse=0.2),
        Faults(repeat=0.3),
        Faults(disconnect=0.1),
        Faults(lose=0.1),
        Faults(reorder=0.2),
        Faults(refuse=0.1, lose=0.05, repeat=0.1, reorder=0.1, disconnect=0.05),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(5))
def test_a_stream_survives_every_fault(faults: Faults, seed: int) -> None:
    """Two disks over one connection, stepped by one thread."""
    random, clock, broker = Random(seed), Clock(), MemoryBroker()
    worker, agent = broker.worker_carrier(), broker.agent_carrier("web1")
    sender = StreamSender(connect=lambda: FaultyPublisher(agent.publisher(), random, faults), clock=clock)
    disks = [Disk(stream, worker, sender) for stream in (STREAM, POINT)]
    for _ in range(5000):
        for disk in disks:
            disk.offer()
        sender.step(0)
        clock.now += 6
        for disk in disks:
            disk.receive()
        if all(disk.opener.sequence == disk.total for disk in disks):
            break
    assert [disk.opener.chain for disk in disks] == [disk.sealer.chain for disk in disks]
    sender.close()


class Disk:
    """One disk's way from its sealer to its opener."""

    total = 60

    def __init__(self, stream: UUID, worker: MemoryWorkerCarrier, sender: StreamSender) -> None:
        worker.declare_stream("web1", stream, 1 << 20)
        self.consumer = worker.consume(stream, 0)
        self.outlet = sender.open(stream)
        self.outlet.allow(ALL)
        self.sealer = Sealer(KEY, POINT, stream)
        self.opener = Opener({1: KEY.secret}, POINT, stream, 1 << 40)

    def offer(self) -> None:
        number = self.sealer.sequence
        if number < self.total:
            body = self.sealer.seal(encode(Kind.DATA, [Extent(number * GRAIN, GRAIN, zero=True)], b""))
            assert self.outlet.offer(body, self.sealer.offset, 0)

    def receive(self) -> None:
        gap = False
        while (delivery := self.consumer.get(0)) is not None:
            place = self.opener.place(delivery.body)
            if place is Place.NEXT:
                expected = self.opener.sequence * GRAIN
                assert self.opener.open(delivery.body).extents[0].offset == expected
            gap = place is Place.AHEAD
            self.consumer.ack(delivery.tag)
        if gap or (self.sealer.sequence == self.total and self.opener.sequence < self.total):
            self.outlet.resend_from(self.opener.sequence)


def test_offers_wait_for_room_and_end_when_closed() -> None:
    broker = MemoryBroker()
    broker.worker_carrier().declare_stream("web1", STREAM, 100)
    sender = StreamSender(connect=broker.agent_carrier("web1").publisher)
    outlet = sender.open(STREAM, hold_bytes=2)
    assert outlet.offer(b"aa", 2)
    assert not outlet.offer(b"b", 3, timeout=0.01)
    sender.start()
    outlet.allow(ALL)
    assert outlet.offer(b"b", 3, timeout=30)
    assert outlet.wait_drained(30)
    assert outlet.confirmed_offset == 3
    outlet.close()
    with pytest.raises(StreamClosedError):
        outlet.offer(b"c", 4)
    sender.close()
    sender.close()
    with pytest.raises(StreamClosedError):
        sender.open(POINT)


def test_what_fails_in_the_thread_reaches_the_one_who_offers() -> None:
    def connect() -> FaultyPublisher:
        raise ZeroDivisionError

    sender = StreamSender(connect=connect)
    outlet = sender.open(STREAM, hold_bytes=1)
    assert outlet.offer(b"a", 1)
    sender.start()
    with pytest.raises(StreamClosedError) as caught:
        outlet.offer(b"b", 2, 30)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_broker_that_is_away_is_asked_ever_less_often() -> None:
    clock, asked = Clock(), []

    def connect() -> FaultyPublisher:
        asked.append(clock.now)
        raise CarrierLost("away")

    sender = StreamSender(connect=connect, clock=clock)
    for _ in range(600):
        sender.step(0)
        clock.now += 0.1
    gaps = [b - a for a, b in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert 5 <= gaps[-1] < 5.2
    assert not sender.connected
