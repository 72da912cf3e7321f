"""The end of a machine's time: whether a run fits before it, and when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from bootpoint_common import message
from bootpoint_common.errors import Code, error
from bootpoint_common.units import format_size

from .trackers.keeper import TrackerKeeper


class Deadline:
    """Of one run; without one it is never over.

    Args:
        order: The run; its seconds count from now on.
        now: The present by the control plane's clock.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        order: message.StartRun,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._order = order
        self._now = now
        self._clock = clock
        self._until = None if order.deadline is None else clock() + order.deadline.seconds

    @property
    def left(self) -> float | None:
        """Seconds that are left; None without a deadline."""
        return None if self._until is None else self._until - self._clock()

    @property
    def expired(self) -> bool:
        """Whether the order is too old to be begun; of one with a deadline no clock of others has a say."""
        return self._now() > self._order.expires_at if self._until is None else self._clock() > self._until

    def within(self, seconds: float) -> float:
        """Return how long to wait for something: so many seconds at most, and not beyond the end."""
        left = self.left
        return max(seconds if left is None else min(seconds, left), 0.0)

    def require_time_for(self, paths: Mapping[str, Path], trackers: TrackerKeeper) -> None:
        """Refuse to begin what would not end in time: before any script, and before the snapshot.

        Args:
            paths: The disk of each slot.
            trackers: Who may know what was written since the base of each replica.

        Raises:
            FatalError: ``deadline``.
        """
        known, left = self._order.deadline, self.left
        if known is None or left is None:
            return
        reads = 0
        for replica in self._order.replicas:  # each target's stream reads the disks for itself
            for slot, path in paths.items():
                written = trackers.written(replica.replica_id, slot, path)
                reads += known.whole_bytes.get(slot, 0) if written is None else written
        seconds = known.overhead_seconds + reads / known.bytes_per_second
        if seconds > left:
            text = (
                f"about {format_size(reads)} are to be read, which takes {seconds:.0f} s"
                f" as earlier runs went; the machine has {max(left, 0.0):.0f} s"
            )
            raise error(Code.DEADLINE, text, key="run.on_shutdown.deadline", job=self._order.job)

    def require(self) -> None:
        """Give up what is still to be sent when the time is over.

        Raises:
            FatalError: ``deadline``.
        """
        if (left := self.left) is not None and left < 0:
            text = "not everything was with the broker when the machine's time was over"
            raise error(Code.DEADLINE, text, key="run.on_shutdown.deadline", job=self._order.job)
