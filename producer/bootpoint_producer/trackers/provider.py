"""What the keeper asks of whatever follows a disk's writes: the kernel's block layer, a thin pool, …

::

    arm ───► [generation 7 is open] ── instant ──► [7 is closed, 8 is open] ── collect: 7 ── let_go(7)
     ▲                                                       │
     └───────────── the next cut, of any run ────────────────┘

A *generation* is what was written between two instants. Providers only close and hand over; the keeper stores
generations, knows who needs them, and decides what is believed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .grains import Grains


@dataclass(frozen=True, slots=True)
class Armed:
    """What follows a disk, as it is now.

    Attributes:
        tracker: Id of this tracking, new and random each time that it began anew. Between two generations of one
            tracker there is a gap only where a number is missing.
        sequence: Number of the generation that is open, from 1 on.
        boot: Id of the machine's boot, where the tracking ends with it; else empty.
        identity: What tells the disk from any other that takes its place (serial, wwn, diskseq, …); without its size.
        size_bytes: The disk's size when its tracking began.
    """

    tracker: str
    sequence: int
    boot: str
    identity: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Generation:
    """What was written between two instants.

    Attributes:
        sequence: Its number.
        grains: What was written; may hold too much, never too little, unless `overflow` is set.
        overflow: Whether more was written than the tracker could note, or it knows that it missed something.
    """

    sequence: int
    grains: Grains
    overflow: bool = False


class Provider(Protocol):
    """Follows disks. Used by one thread at a time.

    Every method may be called again after a crash at any point, by another process with the same state on the machine.
    """

    @property
    def name(self) -> str:
        """``ebpf`` or ``thin``: what history calls it."""

    def why_not(self, path: Path) -> str | None:
        """Say in words why this provider can't follow a disk; None where it can. Quick, and changes nothing.

        Args:
            path: The disk's device or file.
        """

    def arm(self, path: Path) -> Armed:
        """See that a disk is followed, from now on at the latest; called before anything is frozen.

        Where it is followed already and every check says that nothing can have been missed, that goes on; else it
        begins anew, with a new id.

        Raises:
            BootpointError: It can't be followed (any code; the run uses a hash scan).
            OSError: Likewise.
        """

    def instant(self, path: Path) -> int:
        """End the open generation and begin the next one.

        What is written before this call is in a generation that is closed, what is written after it returned in one
        that isn't; what is written meanwhile may be in either or in both. Called while the disk's file systems may be
        frozen: writes to no file system, logs nothing, takes milliseconds.

        Returns:
            The number of the generation that it closed.

        Raises:
            OSError: It failed; the run uses a hash scan.
        """

    def picture(self, path: Path, picture: Path) -> None:
        """Be told what the run reads; called between `instant` and `collect`, when everything is thawed.

        Args:
            path: The disk's device or file.
            picture: Where the still picture of it is; `path` itself where nothing holds it still.
        """

    def collect(self, path: Path) -> list[Generation]:
        """Return the closed generations of the armed tracker that weren't let go, oldest first.

        Called after everything is thawed.

        Raises:
            BootpointError: As `arm`.
            OSError: Likewise.
        """

    def let_go(self, path: Path, sequence: int) -> None:
        """Forget the generations up to this one, which the keeper has stored for certain; may be called again.

        Raises:
            OSError: They stay, and come with the next `collect`.
        """

    def written_since(self, path: Path) -> Grains | None:
        """Return what the open generation holds so far; None where that can't be said.

        Raises:
            BootpointError: As `arm`.
            OSError: Likewise.
        """

    def keep_only(self, trackers: Collection[str]) -> None:
        """Give back what is held for trackings that no base, no candidate and no run needs; may be called at any time.

        Args:
            trackers: Ids of the trackings that are needed.

        Raises:
            OSError: Something stays, until the next call.
        """

    def upkeep(self) -> None:
        """Give back what is held where it does harm by now; called about once a minute, by a thread of its own.

        Raises:
            OSError: Something stays, until the next call.
        """
