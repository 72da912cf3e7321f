"""Distrust of trackers: some of what they call unchanged is compared with the base all the same.

Where n grains are called unchanged and m of them did change, a sample of k misses them all with odds of
C(n - m, k) / C(n, k), about (1 - m / n)^k. At 1 % a single lost grain is found by one run in a hundred, a hundred lost
grains by two runs in three, and a tracker that hears nothing at once. So the sample soon finds a tracker that doesn't
work; that it works is shown by its tests.
"""

from __future__ import annotations

import logging
import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN
from bootpoint_producer.chunk import Counters
from bootpoint_producer.grain import whole_grains
from bootpoint_producer.readahead import digested
from bootpoint_producer.sources.base import Source
from bootpoint_producer.usedblocks.free import without

from .base import Tracker
from .grains import Grains
from .hash import HashTracker

_log = logging.getLogger(__name__)

#: Share of the grains called unchanged that a run compares, unless the agent's configuration says otherwise.
SHARE = 0.01
#: Grains that are compared at least (4 MiB are read) and at most (256 MiB), whatever the share comes to.
LEAST, MOST = 64, 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """How much is compared.

    Attributes:
        share: Share of the grains called unchanged, 0 to 1.
        since: Returns what was written since the snapshot's instant, where the disk is read as it changes: there a
            grain that differs may have been written since, and the next run will see it. None where it is held still.
        random: Draws; by default not to be foretold.
    """

    share: float = SHARE
    since: Callable[[], Grains | None] | None = None
    random: random.Random = field(default_factory=random.SystemRandom)

    def size(self, grains: int) -> int:
        """Return how many of some grains are compared."""
        return min(grains, MOST, max(LEAST, math.ceil(self.share * grains)))


class Sampled:
    """A tracker, and the comparison of a sample, which goes on in threads of its own while what it named is read.

    A context manager; leaving it ends the comparison.

    Args:
        tracker: What is doubted; the hash tracker never is.
        sample: How much is compared.
        unknown: Whole grains, ascending, of which the base's map says nothing, or that aren't to be read.
        counters: What was read is counted there, once `missed` was asked.

    Attributes:
        name: Of the tracker, or ``hash`` where it missed something.
        fallback: ``sample_miss`` then; else None.
        compared: Grains that were compared.
    """

    def __init__(self, tracker: Tracker, sample: Sample, *, unknown: Sequence[Extent], counters: Counters) -> None:
        self.name = tracker.name
        self.fallback: str | None = None
        self.compared = 0
        self._tracker = tracker
        self._sample = sample
        self._unknown = unknown
        self._counters = counters
        self._path = ""
        self._over = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sample")
        self._comparison: Future[list[int]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._pool.shutdown()

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        """See `Tracker.candidates`; from here on the sample is compared."""
        if base is None or self.name == HashTracker.name:
            return self._tracker.candidates(source, base)
        named = list(whole_grains(self._tracker.candidates(source, base), source.size_bytes))
        self._path = source.path
        self._comparison = self._pool.submit(self._compare, source, base, named)
        return iter(named)

    def missed(self) -> bool:
        """Wait for the comparison, and say whether the tracker missed something: then everything may have changed.

        Raises:
            BootpointError: ``disk_read_error``.
        """
        if self._comparison is None:
            return False
        missed, self._comparison = self._comparison.result(), None
        self._counters.scanned_bytes += self.compared * GRAIN
        if not missed:
            _log.info("a sample shows nothing against the tracker", extra={"compared": self.compared})
            return False
        told = {"tracker": self.name, "disk": self._path, "misses": len(missed), "first_grain": missed[0]}
        _log.error("the tracker missed changes", extra=told)
        self.name, self.fallback = HashTracker.name, "sample_miss"
        return True

    def _compare(self, source: Source, base: BlockMap, named: Sequence[Extent]) -> list[int]:
        """Compare a sample; return the grains that were changed, and not named."""
        known = min(base.size_bytes, source.size_bytes) // GRAIN * GRAIN
        unchanged = without(without([Extent(0, known)] if known else [], named), self._unknown)
        differ = []
        for read in digested(source, self._drawn(unchanged), base.entries):
            if self._over:
                break
            self.compared += 1
            if read.data:
                differ.append(read.extent.offset // GRAIN)
        if differ and self._sample.since is not None:
            # Looked up after it was read: whatever was read there was noted before.
            written = self._sample.since()
            if written is not None:
                differ = [grain for grain in differ if not written.has(grain * GRAIN)]
        return differ

    def _drawn(self, unchanged: Iterable[Extent]) -> Iterator[Extent]:
        """Draw grains, each as likely as any other; ascending."""
        starts, before, total = array("Q"), array("Q"), 0
        for extent in unchanged:
            starts.append(extent.offset // GRAIN)
            before.append(total)
            total += extent.length // GRAIN
        for number in sorted(self._sample.random.sample(range(total), self._sample.size(total))):
            at = bisect_right(before, number) - 1
            yield Extent((starts[at] + number - before[at]) * GRAIN, GRAIN)
