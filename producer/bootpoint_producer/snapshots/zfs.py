"""Snapshots of ZFS: of volumes, and of the file systems that raw files lie in. All of a pool are taken by one command,
at one instant (zfs-snapshot(8): "Snapshots are taken atomically").

A file is read below ``.zfs/snapshot`` of its file system. A volume's snapshot has no device of its own unless its
owner says so; so it is read through a read-only clone.
"""

from __future__ import annotations

import logging
import re
import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.snapshots.joint import lost
from bootpoint_producer.snapshots.lvm.guarded import GuardedSource
from bootpoint_producer.snapshots.program import ProgramError, failed, run
from bootpoint_producer.sources import Source, open_source

_log = logging.getLogger(__name__)

#: Where ZFS's device nodes are.
DEVICES = Path("/dev/zvol")
_MOUNTS = Path("/proc/self/mountinfo")
#: Seconds until udev has made a clone's node, and between two looks.
_NODE_SECONDS, _LOOK_SECONDS = 20.0, 0.05
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a disk lies in ZFS.

    Attributes:
        name: The dataset's name, ``pool/…``.
        mount: Where it is mounted; None for a volume.
        within: Path of the file in it; empty for a volume.
    """

    name: str
    mount: Path | None = None
    within: str = ""

    @property
    def pool(self) -> str:
        """Name of its pool."""
        return self.name.partition("/")[0]


class PoolSnapshot(Part):
    """The snapshots of a pool's datasets; a part that its disks share.

    Args:
        pool: Its name.
        owner: The agent's name, by which leftovers are known.
    """

    def __init__(self, pool: str, *, owner: str) -> None:
        self.pool = pool
        self._name = f"bootpoint-{owner}-{secrets.token_hex(4)}"
        self._datasets: dict[str, Dataset] = {}
        self._clones: dict[str, str] = {}
        self._made = False

    def add(self, dataset: Dataset) -> None:
        """Add a disk's dataset; before anything is taken."""
        self._datasets[dataset.name] = dataset

    def take(self) -> None:
        """See `Part.take`."""
        self._made = True
        names = [f"{name}@{self._name}" for name in self._datasets]
        try:
            run("zfs", "snapshot", *names, timeout=self.seconds, late=self.release)
        except ProgramError as failure:
            raise failed(f"no snapshot in pool {self.pool}", failure, value=self.pool) from failure

    def show(self) -> None:
        """See `Part.show`."""
        for number, dataset in enumerate(self._datasets.values()):
            if dataset.mount is not None:
                continue
            clone = f"{self.pool}/{self._name}-{number}"
            try:
                run("zfs", "clone", "-o", "readonly=on", "-o", "volmode=dev", f"{dataset.name}@{self._name}", clone)
            except ProgramError as failure:
                raise failed(f"the snapshot of {dataset.name} can't be read", failure) from failure
            self._clones[dataset.name] = clone
            _wait_for(DEVICES / clone)

    def path(self, dataset: Dataset) -> Path:
        """Return where the picture of a disk is read."""
        if dataset.mount is None:
            return DEVICES / self._clones[dataset.name]
        return dataset.mount / ".zfs" / "snapshot" / self._name / dataset.within

    def confirm(self) -> None:
        """See `Part.confirm`."""
        for name in self._datasets:
            try:
                run("zfs", "list", "-H", "-o", "name", f"{name}@{self._name}")
            except ProgramError as failure:
                raise lost(f"{name}@{self._name}", str(failure)) from failure

    def release(self) -> None:
        """See `Part.release`."""
        if not self._made:
            return
        self._made = False
        doomed = [*self._clones.values(), *(f"{name}@{self._name}" for name in self._datasets)]
        for name in doomed:
            _destroy(name)


class ZfsHold:
    """A disk in ZFS.

    Args:
        path: The disk.
        dataset: Where it lies.
        snapshot: Its pool's snapshot.
        reasons: Why the picture is no better than after a power cut; empty at ``fs``.
    """

    kind = "zfs"
    live = False
    settled = True

    def __init__(self, path: Path, dataset: Dataset, snapshot: PoolSnapshot, *, reasons: Sequence[str] = ()) -> None:
        self.reasons = list(reasons)
        self.parts: Sequence[Part] = (snapshot,)
        self._path = path
        self._dataset = dataset
        self._snapshot = snapshot
        snapshot.add(dataset)

    def instant(self) -> None:
        """See `Hold.instant`; a snapshot doesn't change."""

    def source(self) -> Source:
        """See `Hold.source`."""
        return GuardedSource(open_source(self._snapshot.path(self._dataset)), self.parts, path=str(self._path))

    def path(self) -> str:
        """See `Hold.path`."""
        return str(self._snapshot.path(self._dataset))

    def still(self) -> Sequence[Still]:
        """See `Hold.still`."""
        return [Still(0, None, self.path())]

    def moved(self) -> str:
        """See `Hold.moved`."""
        return ""


def dataset_of(path: Path) -> Dataset | None:
    """Return where a disk lies in ZFS; None where it doesn't."""
    resolved = path.resolve()
    try:
        found = resolved.stat()
        if stat.S_ISBLK(found.st_mode):
            return _volume(found.st_rdev) if DEVICES.is_dir() else None
    except OSError:
        return None
    mounts = [mount for mount in _mounts() if resolved.is_relative_to(mount[0])]
    if not mounts or not stat.S_ISREG(found.st_mode):
        return None
    # The deepest one, and of two at the same place the later one.
    point, fs, name = max(enumerate(mounts), key=lambda each: (len(each[1][0].parts), each[0]))[1]
    if fs != "zfs":
        return None
    return Dataset(name, point, str(resolved.relative_to(point)))


def remove_leftovers(owner: str) -> None:
    """Remove the snapshots that this agent left behind when it died; those of others stay."""
    # A clone's number is short: a longer one belongs to another agent, whose name ends in digits.
    pattern = re.compile(rf"[^@]+(@|/)bootpoint-{re.escape(owner)}-[0-9a-f]{{8}}(-[0-9]{{1,4}})?")
    with suppress(ProgramError):  # no ZFS here, or it can't tell: a next start tries again
        names = run("zfs", "list", "-H", "-o", "name", "-t", "snapshot,volume").splitlines()
        ours = [name for name in names if pattern.fullmatch(name)]
        # Clones first: a snapshot can't go before what was made of it.
        for name in sorted(ours, key=lambda name: "@" in name):
            _log.info("leftover removed", extra={"dataset": name})
            _destroy(name)


def _destroy(name: str) -> None:
    try:
        run("zfs", "destroy", name)
    except ProgramError as failure:
        # It is found and removed when the agent starts again.
        _log.warning("snapshot not removed", extra={"dataset": name, "cause": str(failure)})


def _volume(device: int) -> Dataset | None:
    try:
        names = run("zfs", "list", "-H", "-o", "name", "-t", "volume").splitlines()
    except ProgramError:
        return None
    for name in names:
        with suppress(OSError):
            if (DEVICES / name).stat().st_rdev == device:
                return Dataset(name)
    return None


def _mounts() -> list[tuple[Path, str, str]]:
    """Return (point, type, source) of every mount, in the order in which they were made."""
    found = []
    # Lines end with \n alone; what else ends a line in Python may stand in a name.
    for line in _MOUNTS.read_text(errors="surrogateescape").removesuffix("\n").split("\n"):
        before, _, after = line.partition(" - ")
        fs, source, *_ = after.split(" ")
        found.append((Path(_text(before.split(" ")[4])), fs, _text(source)))
    return found


def _text(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _wait_for(node: Path) -> None:
    deadline = time.monotonic() + _NODE_SECONDS
    while not node.exists():
        if time.monotonic() >= deadline:
            raise error(Code.SNAPSHOT_FAILED, f"{node} has not appeared", value=str(node))
        time.sleep(_LOOK_SECONDS)
