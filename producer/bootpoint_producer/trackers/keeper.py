"""Who follows which disk, and what of it is believed.

Generations of writes (see `provider`) are closed by the cuts of all runs of an agent, and kept until the base of no
replica needs them. What may have changed since a base is all that was written in the generations after the one at
which the base was cut. So an aborted point costs nothing: its generation is simply one more of those that the next
point covers. Whatever speaks against the tracking demotes the disk to a hash scan for this run, with the reason.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from bootpoint_common.errors import BootpointError
from bootpoint_common.message import Base
from bootpoint_producer.state import AgentState

from .base import Tracker
from .changed import ChangedTracker
from .choice import TrackerChoice, choose
from .generation import GenerationStore, Mark, doubt
from .grains import Grains
from .hash import HashTracker
from .provider import Armed, Provider

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """A disk in a cut: `closed` is the generation that the instant closed, None until then."""

    path: Path
    provider: Provider
    armed: Armed | None = None
    closed: int | None = None
    failure: str | None = None


class TrackerKeeper:
    """The trackers of an agent; may be used by several threads.

    Args:
        state: The agent's directory, where points have their marks and generations are stored.
        providers: Who can follow disks, best first; what none of them can is scanned by hash.

    Attributes:
        providers: The same.
    """

    def __init__(self, state: AgentState, providers: Sequence[Provider] = ()) -> None:
        self._state = state
        self.providers = tuple(providers)
        self._store = GenerationStore(state.directory / "trackers")
        self._lock = threading.Lock()
        # Of each provider. Never held while a disk or a file is written: who waits for it may have file systems frozen.
        self._turns = {provider.name: threading.Lock() for provider in providers}
        self._cuts: set[Cut] = set()

    def choose(self, path: Path) -> TrackerChoice:
        """Say how changes of a disk will be found; quick, and changes nothing.

        Args:
            path: The disk's device or file.
        """
        return choose(path, self.providers)

    def written(self, replica_id: UUID, slot: str, path: Path) -> int | None:
        """Return the bytes that a run would find written to a disk since the base of a replica.

        Args:
            replica_id: Whose base.
            slot: The disk.
            path: Its device or file.

        Returns:
            What is known without reading the disk; None where no tracker can say, and all of it would be read.
        """
        base, provider = self._state.base(replica_id), self.choose(path).provider
        if base is None or provider is None:
            return None
        disk = _Followed(path, provider)
        self._arm(disk)
        mark = self.mark_of(replica_id, base, slot)
        if disk.armed is None or mark is None or doubt(mark, provider.name, disk.armed) is not None:
            return None
        try:
            with self._turns[provider.name]:
                found = provider.written_since(path)
        except (BootpointError, OSError):
            return None
        last = disk.armed.sequence - 1
        earlier = self._store.union(mark.tracker, mark.sequence, last) if last > mark.sequence else None
        if found is None or isinstance(earlier, str):
            return None
        return (found if earlier is None else found.union(earlier)).count * found.grain_bytes

    def cut(self, paths: Mapping[str, Path]) -> Cut:
        """Prepare the end of a generation for a run; the snapshot calls the cut's `Cut.instant`.

        Args:
            paths: The disk of each slot.

        Returns:
            The cut; the caller closes it.
        """
        chosen = {slot: (path, self.choose(path).provider) for slot, path in paths.items()}
        followed = {slot: _Followed(path, provider) for slot, (path, provider) in chosen.items() if provider}
        cut = Cut(self, followed)
        with self._lock:
            self._cuts.add(cut)
        for disk in followed.values():
            self._arm(disk)
        return cut

    def sweep(self) -> None:
        """Drop the generations that no base, no candidate and no cut of a run needs."""
        failures: dict[str, OSError] = {}
        for provider in self.providers:
            try:
                with self._turns[provider.name]:  # nobody begins to follow a disk between the look and the deed
                    provider.keep_only(self._needed().keys())
            except OSError as failure:
                failures[provider.name] = failure
        self._store.sweep(self._needed())
        for name, cause in failures.items():
            _log.warning("something is held in vain", extra={"tracker": name, "cause": str(cause)})

    def upkeep(self) -> None:
        """Have the providers look after what they hold; called now and then, whether there are runs or not."""
        for provider in self.providers:
            try:
                provider.upkeep()
            except OSError as failure:
                _log.warning("something is held in vain", extra={"tracker": provider.name, "cause": str(failure)})

    def _needed(self) -> dict[str, int]:
        """Return the newest generation that nobody needs, of each tracking that is of use."""
        with self._lock:
            cuts = list(self._cuts)
        marks = [mark for cut in cuts for mark in cut.marks()] + self._state.marks()
        needed = {armed.tracker: armed.sequence - 1 for cut in cuts for armed in cut.armed()}
        for mark in marks:
            needed[mark.tracker] = min(mark.sequence, needed.get(mark.tracker, mark.sequence))
        return needed

    # --- for cuts

    def tracker_since(self, mark: Mark | None, disk: _Followed) -> tuple[Tracker, str | None]:
        """Return what knows the changes since a point, or the hash tracker and why it has to be that one."""
        if disk.armed is None or disk.closed is None:
            return HashTracker(), "tracker_lost"
        reason = doubt(mark, disk.provider.name, disk.armed)
        if reason is not None or mark is None:
            return HashTracker(), reason
        found = self._store.union(mark.tracker, mark.sequence, disk.closed)
        if isinstance(found, str):
            return HashTracker(), found
        return ChangedTracker(name=disk.provider.name, written=found), None

    def mark_of(self, replica_id: UUID, base: Base, slot: str) -> Mark | None:
        """Return where in the generations a held point stands."""
        return self._state.mark(replica_id, base.point_id, slot)

    def instant(self, disk: _Followed) -> None:
        """Close a disk's generation; the disk's file systems may be frozen."""
        try:
            with self._turns[disk.provider.name]:
                disk.closed = disk.provider.instant(disk.path)
        except (BootpointError, OSError) as failure:
            disk.failure = str(failure)

    def collect(self, disk: _Followed) -> None:
        """Store what a disk's provider has closed."""
        if disk.armed is None or disk.closed is None:
            return
        try:
            with self._turns[disk.provider.name]:
                generations = disk.provider.collect(disk.path)
            for generation in generations:
                self._store.put(disk.armed.tracker, generation)
            if generations:
                with self._turns[disk.provider.name]:
                    disk.provider.let_go(disk.path, generations[-1].sequence)
        except (BootpointError, OSError) as failure:
            disk.failure, disk.closed = str(failure), None

    def written_since(self, disk: _Followed) -> Grains | None:
        """Return what was written after a cut, as far as is known; None where that can't be said."""
        if disk.armed is None or disk.closed is None:
            return None
        try:
            with self._turns[disk.provider.name]:
                closed = disk.provider.collect(disk.path)
                written = disk.provider.written_since(disk.path)
        except (BootpointError, OSError):
            return None
        for generation in closed:
            if generation.sequence > disk.closed and written is not None:
                written = written.union(generation.grains)
        return written

    def close(self, cut: Cut) -> None:
        """Forget a cut."""
        with self._lock:
            known = cut in self._cuts
            self._cuts.discard(cut)
        if known:
            self.sweep()

    def _arm(self, disk: _Followed) -> None:
        try:
            _flush(disk.path)
            with self._turns[disk.provider.name]:
                disk.armed = disk.provider.arm(disk.path)
        except (BootpointError, OSError) as failure:
            disk.failure = str(failure)


def _flush(path: Path) -> None:
    """Write out what the page cache holds of a disk: it belongs before the instant, not after it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Cut:
    """The disks of one run between two generations; used by the run's thread.

    Args:
        keeper: Whose.
        disks: What is followed, by slot.
    """

    def __init__(self, keeper: TrackerKeeper, disks: Mapping[str, _Followed]) -> None:
        self._keeper = keeper
        self._disks = dict(disks)
        self._settled = True

    def instant(self) -> None:
        """Be called by the snapshot at its instant; writes nothing, and never raises for what a tracker can meet."""
        for disk in self._disks.values():
            if disk.armed is not None:
                self._keeper.instant(disk)

    def taken(self, *, settled: bool, pictures: Mapping[str, Path] = MappingProxyType({})) -> None:
        """Note that the snapshot stands and everything is thawed: what the instant closed is stored.

        Args:
            pictures: Where each slot's still picture is.
            settled: Whether everything that was on its way to the disks at the instant is in what is read. Else the
                generation that the instant closed counts for the next run as well.
        """
        self._settled = settled
        for slot, disk in self._disks.items():
            if slot in pictures:
                disk.provider.picture(disk.path, pictures[slot])
            self._keeper.collect(disk)
            if disk.closed is None:
                cause = disk.failure or "the snapshot named no instant"
                _log.warning("writes can't be followed", extra={"slot": slot, "disk": str(disk.path), "cause": cause})

    def tracker(self, replica_id: UUID, slot: str, base: Base | None) -> tuple[Tracker, str | None]:
        """Return what finds a disk's changes since a base.

        Args:
            replica_id: Whose base.
            slot: The disk.
            base: What is held of the base; None where there is none.

        Returns:
            The tracker; and why it is the hash tracker though the disk is followed, else None.
        """
        disk = self._disks.get(slot)
        if disk is None or base is None:
            return HashTracker(), None
        tracker, reason = self._keeper.tracker_since(self._keeper.mark_of(replica_id, base, slot), disk)
        if reason is not None:
            _log.warning(
                "the disk is scanned whole", extra={"slot": slot, "tracker": disk.provider.name, "reason": reason}
            )
        return tracker, reason

    def mark(self, slot: str) -> Mark | None:
        """Return where a point of this run stands in a disk's generations; None where nothing is known of that."""
        disk = self._disks.get(slot)
        if disk is None or disk.armed is None or disk.closed is None:
            return None
        return Mark(
            provider=disk.provider.name,
            tracker=disk.armed.tracker,
            sequence=disk.closed if self._settled else disk.closed - 1,
            boot=disk.armed.boot,
            identity=disk.armed.identity,
            size_bytes=disk.armed.size_bytes,
        )

    def armed(self) -> list[Armed]:
        """Return the trackings of the disks."""
        return [disk.armed for disk in self._disks.values() if disk.armed is not None]

    def marks(self) -> list[Mark]:
        """Return where the points of this run will stand."""
        return [mark for slot in self._disks if (mark := self.mark(slot)) is not None]

    def written_since(self, slot: str) -> Grains | None:
        """Return what was written to a disk since the instant; None where that can't be said."""
        disk = self._disks.get(slot)
        return None if disk is None else self._keeper.written_since(disk)

    def close(self) -> None:
        """Say that the run is over, its points committed or aborted; may be called twice."""
        self._keeper.close(self)
