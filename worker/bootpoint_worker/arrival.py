"""What has arrived of a stream: bundles in hand without an ack, and those that lie beyond a gap.

A broker delivers again what wasn't acked, and in between may come what is no bundle of the stream at all. So a delivery
is acked once every bundle up to it is durable, and a bundle from beyond a gap is held until what is missing comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: Bundles in hand without an ack. The credit bounds their bytes; the number must exceed what a gap can hold back.
PREFETCH = 512

#: Bundles beyond a gap that are held. More of them are dropped and asked for again: else they could take all of
#: `PREFETCH`, and what fills the gap would never be handed out.
HELD_AHEAD = PREFETCH // 2

#: Seconds that a gap may last before the agent is asked to publish again.
GAP_SECONDS = 60.0

#: Stands for the sequence of a delivery that is no bundle of the stream: it may go with any that were before it.
_NONE = -1


class Arrivals:
    """The deliveries of one stream, and their places in it.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._unacked: deque[tuple[int, int]] = deque()  # (tag, sequence), in the order of delivery
        self._ahead: dict[int, bytes] = {}  # bundles beyond a gap, unacked, by sequence
        self._gap_since: float | None = None
        self._refused_at: int | None = None

    @property
    def unacked(self) -> bool:
        """Whether any delivery waits for its ack."""
        return bool(self._unacked)

    def note(self, tag: int, sequence: int = _NONE) -> None:
        """Take note of a delivery; without a sequence, of one that is no bundle of the stream."""
        self._unacked.append((tag, sequence))

    def refuse_last(self, sequence: int) -> None:
        """Take the last delivery for none of the stream's: it was forged in the place of one that is still to come."""
        tag, _ = self._unacked[-1]
        self._unacked[-1] = tag, _NONE
        self._refused_at = sequence

    def hold(self, sequence: int, body: bytes) -> bool:
        """Hold a bundle that lies beyond a gap; return whether there is room for more."""
        self._ahead[sequence] = body
        if self._gap_since is None:
            self._gap_since = self._clock()
        return len(self._ahead) <= HELD_AHEAD

    def take(self, sequence: int) -> bytes | None:
        """Return the bundle of this place if it is held, and hold it no longer."""
        body = self._ahead.pop(sequence, None)
        if body is None and not self._ahead:
            self._gap_since = None
        return body

    def in_gap(self, sequence: int) -> bool:
        """Tell whether the bundle of this place is missing: others came from beyond, or a forged one in its place."""
        return bool(self._ahead) or self._refused_at == sequence

    def overdue(self) -> bool:
        """Tell whether a gap has lasted too long; it counts anew from then on."""
        if self._gap_since is None or self._clock() - self._gap_since < GAP_SECONDS:
            return False
        self._gap_since = self._clock()
        return True

    def forget_ahead(self, sequence: int) -> None:
        """Drop what lies beyond the gap at this place: all from there on is asked for again."""
        self._ahead.clear()
        self._refused_at = sequence  # still a gap, should that word of it be lost
        self._unacked = deque((tag, min(known, sequence - 1)) for tag, known in self._unacked)

    def durable(self, sequence: int) -> int | None:
        """Return up to which delivery all may be acked when all before this place is durable; None for none."""
        tag = None
        while self._unacked and self._unacked[0][1] < sequence:
            tag, _ = self._unacked.popleft()
        return tag
