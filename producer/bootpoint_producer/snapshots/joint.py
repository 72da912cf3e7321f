"""All disks of a job at one instant, whatever holds each of them: freeze all, snapshot all, thaw all.

    prepare every part          room, empty copies; nothing is frozen
    freeze                      last mounted first; volumes with a snapshot of their own are suspended, but one
      the instant               the tracker of changes turns its page; counters are noted
      take every part           first the volume that isn't suspended yet, for its snapshot does that
    thaw
    show every part             devices appear, files are opened

One volume needn't be suspended beforehand: nothing else moves while its snapshot is taken. That is the one with the
programs that take the snapshots, or else the one that was mounted first.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import AtInstant, Consistency, SnapshotSet, Still, nothing
from bootpoint_producer.snapshots.freeze import FREEZE_TIMEOUT, Freeze
from bootpoint_producer.snapshots.hold import Hold, Part
from bootpoint_producer.snapshots.usage import Mount
from bootpoint_producer.sources import Source

_log = logging.getLogger(__name__)

#: Kinds of snapshots, the weakest first. A run with disks of several kinds bears the name of the weakest.
KINDS = ("none", "fsfreeze", "reflink", "btrfs", "zfs", "lvm", "lvm-thin")


@dataclass(frozen=True, slots=True)
class Plan:
    """How the disks of a run are to be held.

    Attributes:
        holds: How each slot's disk is.
        mounts: File systems that are frozen.
    """

    holds: Mapping[str, Hold]
    mounts: tuple[Mount, ...] = ()
    #: Why each slot's disk is held this way.
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The weakest kind."""
        return min((hold.kind for hold in self.holds.values()), key=KINDS.index)

    @property
    def parts(self) -> list[Part]:
        """Every part once, in the order in which they are taken."""
        parts = {id(part): part for hold in self.holds.values() for part in hold.parts}
        order = {mount.device: mount.order for mount in reversed(self.mounts)}
        needed = essential()

        def place(part: Part) -> tuple[bool, bool, float]:
            # Volumes that nothing is mounted on (databases, guests) are suspended beforehand like the rest.
            device = part.suspends
            return device is None, device not in needed, order.get(device or 0, math.inf)

        return sorted(parts.values(), key=place)


class JointSnapshot:
    """Takes what a plan says.

    Args:
        plan: Makes the plan for the paths of the slots; called for each run.
        kind: What the plan is likely to be called.
        timeout: Seconds that file systems may stay frozen.
    """

    def __init__(
        self, *, plan: Callable[[Mapping[str, Path]], Plan], kind: str, timeout: float = FREEZE_TIMEOUT
    ) -> None:
        self.kind = kind
        self._plan = plan
        self._timeout = timeout

    def take(self, disks: Mapping[str, Path], *, at_instant: AtInstant = nothing) -> SnapshotSet:
        """See `Snapshot.take`."""
        plan = self._plan(disks)
        parts = plan.parts
        with ExitStack() as undo:
            for part in parts:
                undo.callback(part.release)
                part.prepare()
            guarded = [part.guarded for part in parts if part.guarded is not None]
            freeze = Freeze(mounts=_frozen(plan, parts), guarded=guarded, timeout=self._timeout)
            with freeze:
                deadline = time.monotonic() + self._timeout
                at_instant()
                instant = datetime.now(UTC)
                for hold in plan.holds.values():
                    hold.instant()
                for part in parts:
                    part.seconds = max(deadline - time.monotonic(), 0.1)
                    part.take()
            for part in parts:
                part.show()
            undo.pop_all()
        _log.info("snapshot taken", extra={"kinds": {slot: hold.kind for slot, hold in plan.holds.items()}})
        return JointSet(plan=plan, parts=parts, instant=instant, unfrozen=freeze.unfrozen)


def essential() -> set[int]:
    """Return the devices of the file systems without which no snapshot can be taken."""
    paths = ["/", shutil.which("lvcreate", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")]
    return {Path(path).stat().st_dev for path in paths if path is not None}


def _frozen(plan: Plan, parts: list[Part]) -> list[str | int]:
    """Return what is frozen, in the order in which it was mounted: mount points, and volumes that are suspended."""
    own = [part.suspends for part in parts if part.suspends is not None]
    # The snapshot of the first one, which is taken before any other, suspends it.
    beforehand = dict.fromkeys(own[1:], -1)
    frozen: list[tuple[int, str | int]] = []
    for mount in plan.mounts:
        if mount.device in beforehand:
            beforehand[mount.device] = max(beforehand[mount.device], mount.order)
        elif mount.device not in own:
            frozen.append((mount.order, mount.point))
    frozen += [(order, device) for device, order in beforehand.items()]
    return [what for _, what in sorted(frozen, key=lambda each: each[0])]


class JointSet:
    """The disks of a run, held still.

    Args:
        plan: How.
        parts: What they stand on; belongs to the set.
        instant: When.
        unfrozen: File systems that couldn't be frozen, in words.
    """

    def __init__(self, *, plan: Plan, parts: list[Part], instant: datetime, unfrozen: list[str]) -> None:
        self.kind = plan.kind
        self.instant = instant
        reasons = [reason for hold in plan.holds.values() for reason in hold.reasons] + unfrozen
        self.reason = "; ".join(dict.fromkeys(reasons))
        self.consistency = Consistency.CRASH if reasons else Consistency.FS
        # A freeze waits for what is under way, a snapshot as well.
        self.settled = not unfrozen and all(hold.settled for hold in plan.holds.values())
        self._holds = dict(plan.holds)
        self._parts = parts

    def live(self, slot: str) -> bool:
        """See `SnapshotSet.live`."""
        return self._holds[slot].live

    def source(self, slot: str) -> Source:
        """See `SnapshotSet.source`."""
        return self._holds[slot].source()

    def path(self, slot: str) -> str:
        """See `SnapshotSet.path`."""
        return self._holds[slot].path()

    def still(self, slot: str) -> Sequence[Still]:
        """See `SnapshotSet.still`."""
        return self._holds[slot].still()

    def confirm(self) -> Consistency:
        """See `SnapshotSet.confirm`."""
        for part in self._parts:
            part.confirm()
        moved = [words for hold in self._holds.values() if not hold.reasons and (words := hold.moved())]
        if moved:
            _log.warning("a disk was not still", extra={"reason": "; ".join(moved)})
            return Consistency.CRASH
        return self.consistency

    def release(self) -> None:
        """See `SnapshotSet.release`."""
        with ExitStack() as undo:
            while self._parts:
                undo.callback(self._parts.pop().release)


def lost(what: str, why: str) -> Exception:
    """Make ``snapshot_lost``."""
    return error(Code.SNAPSHOT_LOST, f"{what} is lost: {why}", value=what)
