"""What a run may take of its machine: one bucket for what it reads and one for what it sends, over all its disks.

::

    disk ──► Metered ──► scan, compress ──► window ──► sender ──► broker
             reading: a bucket                         sending: a bucket, its rate by the time of day

Both are looked at for each piece, so a change holds from the next piece on, and who waits is woken by it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bootpoint_common.bundle import MAX_RAW
from bootpoint_common.errors import Code, error
from bootpoint_common.job import Limits, limits_of

from .priority import Priority
from .sources.base import READ, Source
from .throttle import Throttle, piece_bytes

_log = logging.getLogger(__name__)

#: Longest wait in seconds until the calendar is looked at again: a change of the hour, or of the job, holds after it.
LOOK_SECONDS = 1.0


def _now() -> datetime:
    return datetime.now(UTC)


class RunLimits:
    """The limits of one run, which may change while it goes on; thread-safe. Sending it is a `stream.sender.Pace`.

    Args:
        last_breath: The machine is about to stop: nothing is limited, for what isn't sent by then is lost.
        now: The instant, for the time of day.
        clock: Seconds, monotonic, for the rates.

    Attributes:
        reading: What the disks of the run may be read by.
        revision: The job's revision that the limits are of.
    """

    def __init__(
        self,
        *,
        last_breath: bool = False,
        now: Callable[[], datetime] = _now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reading = Throttle(clock=clock)
        self.revision = -1
        self._sending = Throttle(clock=clock)
        self._priority = Priority()
        self._last_breath = last_breath
        self._now = now
        self._lock = threading.Lock()
        self._limits = Limits(nice=0)
        self._zone = ZoneInfo("UTC")

    def change(self, limits: Mapping[str, object], time_zone: str | None, revision: int) -> None:
        """Take what a job's revision says from now on; an older one than is known already changes nothing.

        Args:
            limits: As in the job file, as JSON.
            time_zone: The job's, for times of day.
            revision: The job's revision.

        Raises:
            BootpointError: ``spec_invalid``: the limits can't be read, or the machine doesn't know the time zone.
        """
        wanted, zone = limits_of(limits), _zone(time_zone)
        with self._lock:
            if revision <= self.revision:
                return
            self.revision = revision
            if self._last_breath:
                return
            self._limits, self._zone = wanted, zone
        self._priority.nice = wanted.nice
        self.reading.set_rate(wanted.read_bytes_per_second)
        _log.info("limits", extra={"revision": revision, "limits": dict(limits)})

    def heed(self) -> None:
        """Give the calling thread the run's priority."""
        self._priority.heed()

    # --- sending

    def delay(self) -> float:
        """Return the seconds until a bundle may be sent; 0 for at once, and never more than `LOOK_SECONDS`."""
        with self._lock:
            rate = self._limits.network_at(self._now(), self._zone)
        self._sending.set_rate(rate)
        return min(self._sending.delay(), LOOK_SECONDS)

    def spend(self, count: int) -> None:
        """Note that a bundle of ``count`` bytes was sent, for the first time or again."""
        self._sending.spend(count)

    def bundle_bytes(self) -> int:
        """Return how many bytes of a disk a bundle may hold, so that the lowest rate of the day is right."""
        rates = [rate.kb_per_second * 1024 for rate in self._limits.network if rate.kb_per_second]
        return piece_bytes(min(rates, default=0), MAX_RAW)


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError) as unknown:
        text = f"this machine does not know the time zone {name}"
        hint = "install its tzdata package"
        raise error(Code.SPEC_INVALID, text, key="time_zone", value=name, hint=hint) from unknown


class ReadingOver(Exception):  # noqa: N818 - the end of a thread's work, not an error of ours
    """The run is over; what is still to be read doesn't matter."""


class Metered:
    """A source that is read by the run's limits, and whose readers end with the run.

    An unchanged disk is read for hours without offering a bundle: the end of a run must reach its readers too.
    """

    def __init__(self, source: Source, limits: RunLimits, over: threading.Event) -> None:
        self._source = source
        self._limits = limits
        self._over = over
        self.path, self.size_bytes = source.path, source.size_bytes
        self.data_extents, self.close = source.data_extents, source.close

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`.

        Raises:
            ReadingOver: The run is over.
        """
        self._limits.heed()
        reading = self._limits.reading
        piece = piece_bytes(reading.bytes_per_second, READ)
        parts = []
        for at in range(offset, offset + length, piece):
            size = min(piece, offset + length - at)
            reading.take(size)
            if self._over.is_set():
                raise ReadingOver
            parts.append(self._source.read(at, size))
        return parts[0] if len(parts) == 1 else b"".join(parts)
