"""How one disk is held still, and what several disks share to be held at one instant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.sources import Source


class Part:
    """Something that keeps an instant, for one disk or for several: a copy, a snapshot of a volume.

    Its methods are called in this order; `release` after any of them, and more than once. Here they do nothing.

    Attributes:
        seconds: What is left of the time of a freeze when `take` is called.
    """

    seconds: float = 0.0

    @property
    def suspends(self) -> int | None:
        """Number of the volume that `take` suspends by itself, with the file system on it; None for no such thing."""
        return None

    @property
    def guarded(self) -> int | None:
        """Number of a volume that `take` suspends for a moment, and that must go on even if the agent dies in it."""
        return None

    def prepare(self) -> None:
        """Do what can be done before anything is frozen: look for room, above all.

        Raises:
            BootpointError: ``snapshot_failed``, with what lacks.
        """

    def take(self) -> None:
        """Keep the instant. Everything is frozen: nothing may be written but what is known not to be frozen.

        Raises:
            BootpointError: ``snapshot_failed``; ``freeze_timeout``.
        """

    def show(self) -> None:
        """Make it readable; everything is thawed.

        Raises:
            BootpointError: ``snapshot_failed``.
        """

    def confirm(self) -> None:
        """Make sure that it still shows the instant.

        Raises:
            BootpointError: ``snapshot_lost``.
        """

    def release(self) -> None:
        """Give it back, as far as it was made; raises nothing that a next start wouldn't clean up."""


class Hold(Protocol):
    """One disk of a run."""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""

    @property
    def reasons(self) -> list[str]:
        """Why it is like after a power cut, in words; empty where it is clean."""

    @property
    def live(self) -> bool:
        """Whether some of it is read from the disk as it changes."""

    @property
    def settled(self) -> bool:
        """Whether nothing can have been on its way to the disk at the instant, and reach it after it was read."""

    @property
    def parts(self) -> Sequence[Part]:
        """What it stands on; several disks may share a part."""

    def instant(self) -> None:
        """Note what tells later whether somebody wrote; called while everything is frozen.

        Raises:
            BootpointError: ``disk_missing``.
        """

    def source(self) -> Source:
        """Open the disk; the caller closes it. Raises what `SnapshotSet.source` does."""

    def path(self) -> str:
        """Return a path for other programs, as `SnapshotSet.path` promises."""

    def still(self) -> Sequence[Still]:
        """Return what is held still, as `SnapshotSet.still` promises."""

    def moved(self) -> str:
        """Say, after everything was read, what wasn't still after all; empty where everything was.

        Raises:
            BootpointError: ``disk_missing``.
        """
