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
from dataclasses import dataclass, field

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.digest import grain_digest
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN
from bootpoint_producer.scan import Counters, whole_grains
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
    """A tracker that is believed only once a sample has shown nothing against it; else everything may have changed.

    Args:
        tracker: What is doubted; the hash tracker never is.
        sample: How much is compared.
        unknown: Whole grains, ascending, of which the base's map says nothing, or that aren't to be read.
        counters: What is read is counted there.

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

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        """See `Tracker.candidates`."""
        if base is not None and self.name != HashTracker.name:
            missed = self._missed(source, base)
            if missed:
                told = {"tracker": self.name, "disk": source.path, "misses": len(missed), "first_grain": missed[0]}
                _log.error("the tracker missed changes", extra=told)
                self.name, self.fallback = HashTracker.name, "sample_miss"
                return HashTracker().candidates(source, base)
            _log.info("a sample shows nothing against the tracker", extra={"compared": self.compared})
        return self._tracker.candidates(source, base)

    def _missed(self, source: Source, base: BlockMap) -> list[int]:
        """Compare a sample; return the grains that were changed, and not named."""
        known = min(base.size_bytes, source.size_bytes) // GRAIN * GRAIN
        named = list(whole_grains(self._tracker.candidates(source, base), source.size_bytes))
        unchanged = without(without([Extent(0, known)] if known else [], named), self._unknown)
        differ = [grain for grain in self._drawn(unchanged) if self._differs(source, base, grain)]
        if differ and self._sample.since is not None:
            # Looked up after it was read: whatever was read there was noted before.
            written = self._sample.since()
            if written is not None:
                differ = [grain for grain in differ if not written.has(grain * GRAIN)]
        return differ

    def _drawn(self, unchanged: Iterable[Extent]) -> list[int]:
        """Draw grains, each as likely as any other; ascending."""
        starts, before, total = array("Q"), array("Q"), 0
        for extent in unchanged:
            starts.append(extent.offset // GRAIN)
            before.append(total)
            total += extent.length // GRAIN
        drawn = sorted(self._sample.random.sample(range(total), self._sample.size(total)))
        places = ((number, bisect_right(before, number) - 1) for number in drawn)
        return [starts[at] + number - before[at] for number, at in places]

    def _differs(self, source: Source, base: BlockMap, grain: int) -> bool:
        data = source.read(grain * GRAIN, GRAIN)
        self.compared += 1
        self._counters.scanned_bytes += len(data)
        return grain_digest(data) != base.entries(grain, 1)
