"""What a snapshot promises: all disks of a run as they were at one instant, for as long as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from bootpoint_producer.sources import Source

#: What is done at the instant of a snapshot. Writes to no file system, for all may be frozen; takes milliseconds.
AtInstant = Callable[[], None]


def nothing() -> None:
    """Do nothing at the instant."""


class Consistency(StrEnum):
    """What a disk's content is worth to who starts from it."""

    #: Applications wrote out what they held (scripts of the job did that).
    APP = "app"
    #: The file systems are clean: nothing was under way.
    FS = "fs"
    #: As after a power cut.
    CRASH = "crash"

    def reaches(self, wanted: Consistency) -> bool:
        """Whether it is at least as good as ``wanted``."""
        order = list(Consistency)
        return order.index(self) <= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Still:
    """A range of a disk that a snapshot holds still, and where other programs can read it.

    Attributes:
        offset: Its first byte on the disk.
        length: Its bytes; None: to the disk's end.
        path: The file or device that shows it.
        start: Its first byte there.
    """

    offset: int
    length: int | None
    path: str
    start: int = 0


class SnapshotSet(Protocol):
    """The disks of a run, held still (or not: then `consistency` says so)."""

    @property
    def kind(self) -> str:
        """One of `bootpoint_producer.snapshots.joint.KINDS`."""

    @property
    def instant(self) -> datetime:
        """The moment it shows, in UTC."""

    @property
    def consistency(self) -> Consistency:
        """The lowest one among the disks, as it was at the instant."""

    @property
    def reason(self) -> str:
        """Why it isn't better, in words; empty at ``fs``."""

    @property
    def settled(self) -> bool:
        """Whether everything that was on its way to the disks at the instant is in what will be read."""

    def live(self, slot: str) -> bool:
        """Say whether some of a disk is read as it changes.

        Raises:
            KeyError: The snapshot has no such disk.
        """

    def source(self, slot: str) -> Source:
        """Open a disk; the caller closes it.

        Raises:
            BootpointError: ``disk_missing``, ``disk_read_error``, ``source_ineligible``.
            KeyError: The snapshot has no such disk.
        """

    def path(self, slot: str) -> str:
        """Return a path by which other programs can read the still picture, until `release`.

        It may stand for a file that has no name any more; what isn't held still has the disk's own path.

        Raises:
            KeyError: The snapshot has no such disk.
        """

    def still(self, slot: str) -> Sequence[Still]:
        """Return what of a disk is held still, until `release`; nothing of one that is read as it changes.

        Raises:
            KeyError: The snapshot has no such disk.
        """

    def confirm(self) -> Consistency:
        """Return what the consistency turned out to be, after everything was read.

        Lower than `consistency` where nothing held the disks still and somebody wrote to them meanwhile.
        """

    def release(self) -> None:
        """Give back what the snapshot holds; may be called twice."""


class Snapshot(Protocol):
    """A way to take a `SnapshotSet`."""

    @property
    def kind(self) -> str:
        """One of `bootpoint_producer.snapshots.joint.KINDS`."""

    def take(self, disks: Mapping[str, Path], *, at_instant: AtInstant = nothing) -> SnapshotSet:
        """Hold the disks still, all at one instant.

        Args:
            disks: Path of each slot's file or device.
            at_instant: Called once, at the instant: after everything is frozen and before it is thawed, or, where
                nothing is frozen, before the first byte can be read. So whatever was written before the call is in
                the picture; what is written after it may or may not be. It is called before the snapshots are made:
                a failure that comes later leaves it called.

        Raises:
            BootpointError: ``snapshot_failed``; ``freeze_timeout``; ``disk_missing``.
        """
