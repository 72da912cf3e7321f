"""Go-back-N: what of one stream is published, confirmed, and published again.

::

     confirmed                       in flight             waiting
    ───────┬────────────┬──────────────────────────┬──────────────┐
     freed │ 15   16    │ 17   18   19   20   21   │ 22   23      │  ◄── offer
    ───────┴────────────┴──────────────────────────┴──────────────┘
           ▲            ▲ first unconfirmed        ▲ next to publish: not beyond the credit, nor in_flight_bytes
           │            ├────── nack or return of n: the next to publish goes back to n
           │            └────── lost connection: it goes back to here
           └─────────────────── resend_from may go back to here

The receiver drops what lies beyond a gap. So a bundle counts as confirmed only when everything before it is too,
and once one was refused, what followed it counts as never sent, though the broker may have confirmed it.
Confirmed bundles are freed when their room is needed, the oldest first.

Nothing here waits, locks, or talks to anybody: `sender` does, and a test can step it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.stream.carrier import Confirmed, Refused
from bootpoint_common.units import MiB

#: Bytes on their way to the broker at most. 16 MiB keeps the connection busy (measured: a wider window gains
#: nothing) and bounds what the client library buffers.
IN_FLIGHT = 16 * MiB

#: Bytes of a stream that are held at most. What is in flight and as much again: the maker of bundles goes on while
#: a batch is confirmed.
HOLD = 2 * IN_FLIGHT

#: Seconds before something refused is sent again: from the first value, doubled each time, up to the second.
#: A full or missing stream refuses at once, and asking it in a loop would take a core.
RETRY_FIRST, RETRY_LAST = 0.05, 5.0


@dataclass(slots=True)
class _Held:
    """A bundle that is held: its bytes, its end in the stream, and whether this publication of it is confirmed."""

    body: bytes
    end: int
    confirmed: bool = False


class Window:
    """The sending side of one stream, without input and output; used by one thread, or under a lock.

    Args:
        stream: The stream's id.
        sequence: Number of the first bundle that will be offered.
        offset: Encrypted bytes before it.
        hold_bytes: Bytes that are held at most.
        in_flight_bytes: Bytes in flight at most.
        clock: Seconds, monotonic.

    Attributes:
        allowed: The credit: cumulative offset up to which may be sent.
        confirmed_offset: Encrypted bytes that the broker has confirmed; never goes back.
        offered_offset: Encrypted bytes that were offered.
        held_bytes: Encrypted bytes that are held.
        republished_bytes: Encrypted bytes that were published more than once.
        returned: Whether the broker's last word was that there is no such stream.
    """

    def __init__(
        self,
        stream: UUID,
        *,
        sequence: int = 0,
        offset: int = 0,
        hold_bytes: int = HOLD,
        in_flight_bytes: int = IN_FLIGHT,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.stream = stream
        self.allowed = 0
        self.confirmed_offset = offset
        self.offered_offset = offset
        self.held_bytes = 0
        self.republished_bytes = 0
        self.returned = False
        self._hold_bytes = hold_bytes
        self._in_flight_bytes = in_flight_bytes
        self._clock = clock
        self._held: deque[_Held] = deque()
        self._first = sequence  # number of the first held
        self._confirmed = 0  # how many of the held, from the first, are confirmed
        self._unconfirmed_bytes = 0
        self._next = 0  # index into _held of the next to publish
        self._published_offset = offset  # end of what was ever published
        self._flight: dict[int, _Held] = {}  # by tag, in the order of publication
        self._flight_bytes = 0
        self._retry = RETRY_FIRST
        self._retry_at: float | None = None
        self._waited = 0.0
        self._starved_since: float | None = None

    # --- what the maker of bundles calls

    def room(self, size: int) -> bool:
        """Tell whether a bundle of this size may be offered; where nothing is unconfirmed, any may."""
        return self.drained or self._unconfirmed_bytes + size <= self._hold_bytes

    def offer(self, body: bytes, end_offset: int) -> None:
        """Take the next bundle; it is kept until confirmed.

        Args:
            body: The encrypted bundle.
            end_offset: Cumulative encrypted bytes with this bundle: `Sealer.offset` after it was sealed.

        Raises:
            ValueError: It isn't the next one.
        """
        if end_offset != self.offered_offset + len(body):
            raise ValueError(f"a bundle ends at {end_offset}, expected was {self.offered_offset + len(body)}")
        self._held.append(_Held(body, end_offset))
        self.offered_offset = end_offset
        self.held_bytes += len(body)
        self._unconfirmed_bytes += len(body)
        while self._confirmed and self.held_bytes > self._hold_bytes:
            self.held_bytes -= len(self._held.popleft().body)
            self._first += 1
            self._confirmed -= 1
            self._next -= 1
        self._note_credit()

    def release(self) -> None:
        """Let go of all bytes: nothing will be published any more. Whoever made the bundles may live on for long."""
        self._held.clear()
        self._flight.clear()
        self._next = self._confirmed = 0
        self.held_bytes = self._flight_bytes = self._unconfirmed_bytes = 0
        self._note_credit()

    @property
    def drained(self) -> bool:
        """Whether everything that was offered is confirmed."""
        return self._confirmed == len(self._held)

    # --- what the worker says

    def allow(self, may_send_until: int) -> None:
        """Take credit; old and repeated words of it change nothing, because the maximum counts."""
        self.allowed = max(self.allowed, may_send_until)
        self._note_credit()

    def resend_from(self, sequence: int) -> None:
        """Publish again from a bundle on.

        The worker got everything before it out of the stream, so that counts as confirmed. A number beyond what
        was published changes nothing.

        Raises:
            RetryableError: ``stream_gap``: its bytes are no longer held.
        """
        if sequence < self._first:
            raise error(
                Code.STREAM_GAP,
                f"bundle {sequence} was lost after the broker had confirmed it, and the oldest held is {self._first}",
                value=sequence,
            )
        index = sequence - self._first
        if index > self._next:
            return
        for held in list(self._held)[:index]:
            held.confirmed = True
        gone = {tag: held for tag, held in self._flight.items() if held.confirmed}
        for tag, held in gone.items():
            del self._flight[tag]
            self._flight_bytes -= len(held.body)
        self._go_back(index)
        self._settle()

    # --- what the publisher does

    def next(self) -> bytes | None:
        """Return the bundle to publish now, or None: nothing is offered, no credit, too much in flight, or a
        refusal is too fresh. It stays the next one until `published` is called."""
        held = self._ready()
        if held is None or (self._flight and self._flight_bytes + len(held.body) > self._in_flight_bytes):
            return None
        if self._retry_at is not None and self._clock() < self._retry_at:
            return None
        return held.body

    def published(self, tag: int) -> None:
        """Note that what `next` returned was published under this tag."""
        held = self._held[self._next]
        held.confirmed = False
        self._next += 1
        self._flight[tag] = held
        self._flight_bytes += len(held.body)
        if held.end <= self._published_offset:
            self.republished_bytes += len(held.body)
        else:
            self._published_offset = held.end
        self._note_credit()

    def take(self, event: Confirmed | Refused) -> None:
        """Note what the broker said; tags of others, and of what counts as never sent, are ignored."""
        if isinstance(event, Refused):
            if event.tag in self._flight:
                self.returned = event.returned
                # Not further: what was published before it is still to be answered, often with a confirm that
                # waits for a disk while a refusal doesn't, and would count for nothing.
                refused = self._flight[event.tag]
                self._go_back(next(index for index, held in enumerate(self._held) if held is refused))
                self._retry_at = self._clock() + self._retry
                self._retry = min(self._retry * 2, RETRY_LAST)
            return
        tags = [tag for tag in self._flight if tag <= event.tag] if event.multiple else [event.tag]
        for tag in tags:
            held = self._flight.pop(tag, None)
            if held is not None:
                held.confirmed = True
                self._flight_bytes -= len(held.body)
        self._settle()

    def lost(self) -> None:
        """Note that the connection is gone: everything unconfirmed is to be published again, on a new one."""
        self._go_back(self._confirmed)
        self._retry_at = None

    @property
    def retry_seconds(self) -> float | None:
        """Seconds until something refused may be sent again; None when nothing waits for that."""
        if self._retry_at is None or self._ready() is None:
            return None
        return max(0.0, self._retry_at - self._clock())

    # --- what is shown

    @property
    def starved_seconds(self) -> float:
        """Seconds that a bundle has now been waiting for credit; 0 when none waits."""
        return 0.0 if self._starved_since is None else self._clock() - self._starved_since

    @property
    def credit_wait_seconds(self) -> float:
        """Seconds spent waiting for credit, all together."""
        return self._waited + self.starved_seconds

    def _ready(self) -> _Held | None:
        if self._next == len(self._held):
            return None
        held = self._held[self._next]
        return held if held.end <= self.allowed else None

    def _go_back(self, index: int) -> None:
        """Let the held bundles from this index on count as never sent."""
        if index >= self._next:
            return
        again = list(self._held)[index : self._next]
        names = {id(held) for held in again}
        for held in again[: max(0, self._confirmed - index)]:
            self._unconfirmed_bytes += len(held.body)
        for held in again:
            held.confirmed = False
        self._flight = {tag: held for tag, held in self._flight.items() if id(held) not in names}
        self._flight_bytes = sum(len(held.body) for held in self._flight.values())
        self._confirmed = min(self._confirmed, index)
        self._next = index
        self._note_credit()

    def _settle(self) -> None:
        """Count what is confirmed together with all before it."""
        while self._confirmed < len(self._held) and self._held[self._confirmed].confirmed:
            held = self._held[self._confirmed]
            self._confirmed += 1
            self._unconfirmed_bytes -= len(held.body)
            self.confirmed_offset = max(self.confirmed_offset, held.end)
            self.returned = False
            self._retry, self._retry_at = RETRY_FIRST, None

    def _note_credit(self) -> None:
        """Start or stop the clock of waiting for credit."""
        starved = self._next < len(self._held) and self._held[self._next].end > self.allowed
        if starved and self._starved_since is None:
            self._starved_since = self._clock()
        elif not starved and self._starved_since is not None:
            self._waited += self._clock() - self._starved_since
            self._starved_since = None
