"""Runs of an agent without a control plane: picture, tracker, scan, point; and what a hash scan says to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.digest import ENTRY
from bootpoint_common.identity import new_id
from bootpoint_producer.chunk import Counters
from bootpoint_producer.scan import scan
from bootpoint_producer.snapshots import SnapshotSet
from bootpoint_producer.state import AgentState
from bootpoint_producer.trackers.hash import HashTracker
from bootpoint_producer.trackers.keeper import Cut, TrackerKeeper
from bootpoint_producer.trackers.provider import Provider

#: Called at the instant of a picture.
AtInstant = Callable[[], None]

#: Takes the picture of the disks: `Snapshot.take`.
Take = Callable[..., SnapshotSet]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a disk in a round.

    Attributes:
        tracker: Who named its changes.
        fallback: Why it was the hash tracker.
        scanned_bytes: What was read.
        changed: How many grains travel.
        missed: How many grains a hash scan of the same picture finds different from what the point has now.
    """

    tracker: str
    fallback: str | None
    scanned_bytes: int
    changed: int
    missed: int


class Rounds:
    """One replica of some disks; a new object on the same directory is an agent that was started anew.

    Args:
        directory: The agent's.
        disks: Path of each slot.
        providers: What follows disks.
    """

    def __init__(self, directory: Path, disks: Mapping[str, Path], *providers: Provider) -> None:
        self.state = AgentState(directory)
        self.keeper = TrackerKeeper(self.state, providers)
        self.disks = dict(disks)
        self.replica = UUID(int=1)

    def round(
        self, take: Take, *, commit: bool = True, between: Callable[[], None] = lambda: None
    ) -> dict[str, Outcome]:
        """Make a point.

        Args:
            take: Takes the picture.
            commit: Whether the point becomes the replica's base; else it is aborted.
            between: Called while the picture is read.
        """
        point = new_id()
        cut = self.keeper.cut(self.disks)
        taken = take(self.disks, at_instant=cut.instant)
        try:
            cut.taken(settled=taken.settled, pictures={slot: Path(taken.path(slot)) for slot in self.disks})
            between()
            roots: dict[str, tuple[int, bytes]] = {}
            found = {slot: self._scan(slot, point, cut, taken, roots) for slot in self.disks}
            marks = {slot: mark for slot in self.disks if (mark := cut.mark(slot)) is not None}
            self.state.keep_point(self.replica, point, roots, marks)
        finally:
            taken.release()
        if commit:
            self.state.adopt(self.replica, point)
        else:
            self.state.drop(self.replica, point)
        cut.close()
        return found

    def _scan(
        self, slot: str, point: UUID, cut: Cut, taken: SnapshotSet, roots: dict[str, tuple[int, bytes]]
    ) -> Outcome:
        held = self.state.base(self.replica)
        tracker, fallback = cut.tracker(self.replica, slot, held)
        counters = Counters()
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(contextlib.closing(taken.source(slot)))
            path = self.state.map_path(self.replica, point, slot)
            base = None
            if held is not None:
                base = stack.enter_context(BlockMap.open(self.state.map_path(self.replica, held.point_id, slot)))
            made = base.copy_to(path, source.size_bytes) if base else BlockMap.create(path, source.size_bytes)
            stack.enter_context(made)
            chunks = scan(source, tracker, made, base=base, counters=counters)
            changed = sum(-(-extent.length // 65536) for chunk in chunks for extent in chunk.extents)
            made.rehash()
            roots[slot] = (source.size_bytes, made.root())
            made.sync()
            oracle = stack.enter_context(BlockMap.create(path.with_suffix(".oracle"), source.size_bytes))
            for _ in scan(source, HashTracker(), oracle):
                pass
            missed = _different(made, oracle)
        path.with_suffix(".oracle").unlink()
        return Outcome(tracker.name, fallback, counters.scanned_bytes, changed, missed)


def _different(one: BlockMap, other: BlockMap) -> int:
    count = -(-one.size_bytes // 65536)
    left, right = bytes(one.entries(0, count)), bytes(other.entries(0, count))
    return sum(left[at : at + ENTRY] != right[at : at + ENTRY] for at in range(0, len(left), ENTRY))
