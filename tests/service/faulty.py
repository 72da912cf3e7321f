"""A publisher and a consumer that lose, repeat, reorder, refuse and disconnect at random."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from uuid import UUID

from bootpoint_common.stream.carrier import CarrierLost, Confirmed, Consumer, Delivery, Refused, StreamPublisher


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault happens, from 0 to 1.

    Attributes:
        refuse: The broker refuses a publication.
        lose: The broker confirms a publication that it then loses.
        repeat: A publication reaches the broker twice.
        reorder: A publication reaches the broker after the next one.
        disconnect: The connection is lost at a publication, which may or may not have arrived.
    """

    refuse: float = 0.0
    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    disconnect: float = 0.0


class FaultyPublisher:
    """A publisher between the sender and a real one; its tags are its own."""

    def __init__(self, inner: StreamPublisher, random: Random, faults: Faults) -> None:
        self._inner = inner
        self._random = random
        self._faults = faults
        self._tag = 0
        self._events: list[Confirmed | Refused] = []
        self._late: list[tuple[int, UUID, bytes]] = []
        self._tags: dict[int, int] = {}  # the inner publisher's to ours

    def _happens(self, rate: float) -> bool:
        return self._random.random() < rate

    def publish(self, stream: UUID, body: bytes) -> int:
        self._tag += 1
        late, self._late = self._late, []
        if self._happens(self._faults.refuse):
            self._events.append(Refused(self._tag))
        elif self._happens(self._faults.lose):
            self._events.append(Confirmed(self._tag))
        elif self._happens(self._faults.disconnect):
            if self._happens(0.5):
                self._inner.publish(stream, body)
            raise CarrierLost("a fault was injected")
        elif self._happens(self._faults.reorder):
            self._late.append((self._tag, stream, body))
        else:
            self._pass(self._tag, stream, body)
            if self._happens(self._faults.repeat):
                self._inner.publish(stream, body)
        for one in late:
            self._pass(*one)
        return self._tag

    def _pass(self, tag: int, stream: UUID, body: bytes) -> None:
        self._tags[self._inner.publish(stream, body)] = tag

    def poll(self, timeout: float) -> list[Confirmed | Refused]:
        late, self._late = self._late, []
        for one in late:
            self._pass(*one)
        for event in self._inner.poll(0 if self._events else timeout):
            multiple = isinstance(event, Confirmed) and event.multiple
            for inner in [one for one in self._tags if one <= event.tag] if multiple else [event.tag]:
                tag = self._tags.pop(inner, None)
                if tag is not None:
                    self._events.append(
                        Confirmed(tag) if isinstance(event, Confirmed) else Refused(tag, event.returned)
                    )
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        self._inner.wake()

    def close(self) -> None:
        self._inner.close()


class FaultyConsumer:
    """A consumer that hands out some messages twice, and some after the next one."""

    def __init__(self, inner: Consumer, random: Random, faults: Faults) -> None:
        self._inner = inner
        self._random = random
        self._faults = faults
        self._waiting: list[Delivery] = []

    def get(self, timeout: float) -> Delivery | None:
        if self._waiting:
            return self._waiting.pop(0)
        delivery = self._inner.get(timeout)
        if delivery is None:
            return None
        if self._random.random() < self._faults.repeat:
            self._waiting.append(Delivery(delivery.tag, delivery.body, redelivered=True))
        if self._random.random() < self._faults.reorder:
            follower = self._inner.get(0)
            if follower is not None:
                self._waiting.insert(0, delivery)
                return follower
        return delivery

    def ack(self, tag: int) -> None:
        self._inner.ack(tag)

    def close(self) -> None:
        self._inner.close()
