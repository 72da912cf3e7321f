"""Snapshots of logical volumes.

Both kinds are volumes of their own with a name and tags by which a dead agent's leftovers are known.

*Thick*: made within the freeze, by `lvcreate`, which suspends its origin itself with the file system on it (see
`freeze`). Its room is of what the group has free; when more than that is overwritten meanwhile, it is lost.

*Thin*: made by `lvcreate` before the freeze. Within it the pool is told to forget that picture and to take a new one
under the same number, by two messages (Linux, Documentation/admin-guide/device-mapper/thin-provisioning.rst). That
takes milliseconds for any number of volumes, and LVM, whose metadata doesn't change by it, removes it as ever. LVM's
own way has to suspend the volume itself, which fails where it is frozen, and spoils the pool where it is suspended.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_common.units import format_size
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.snapshots.joint import lost
from bootpoint_producer.snapshots.lvm.guarded import GuardedSource
from bootpoint_producer.snapshots.lvm.mapper import Mapper, below
from bootpoint_producer.snapshots.lvm.report import Volume, mapper_id, volumes
from bootpoint_producer.snapshots.program import ProgramError, failed, run
from bootpoint_producer.sources import Source, open_source

_log = logging.getLogger(__name__)

#: Room for a thick snapshot: what may be overwritten while it is read, as a part of the volume, and the least of it.
ROOM, LEAST_ROOM = 0.2, 0.01
#: While anything is frozen LVM may write neither backups of its metadata nor start its monitor.
_QUIETLY = ("--autobackup", "n", "--config", "backup { archive = 0 backup = 0 } activation { monitoring = 0 }")
_TAG = "bootpoint"
#: Seconds until a snapshot that is in use is removed once more.
_AGAIN_SECONDS = 1.0


class _Snapshot(Part):
    """What both kinds share.

    Args:
        volume: The origin.
        owner: The agent's name, by which leftovers are known.
    """

    def __init__(self, volume: Volume, *, owner: str) -> None:
        self.volume = volume
        self.name = f"bootpoint-{secrets.token_hex(4)}"
        self._tags = ("--addtag", _TAG, "--addtag", owner_tag(owner))
        self._made = False
        self._overflow = ""

    @property
    def full_name(self) -> str:
        """``group/name``."""
        return f"{self.volume.group}/{self.name}"

    @property
    def path(self) -> Path:
        """Its device node."""
        mangled = (part.replace("-", "--") for part in (self.volume.group, self.name))
        return Path("/dev/mapper") / "-".join(mangled)

    def confirm(self) -> None:
        """See `Part.confirm`."""
        try:
            found = [volume for volume in volumes() if (volume.group, volume.name) == (self.volume.group, self.name)]
        except ProgramError as failure:
            raise lost(self.full_name, f"LVM can't tell what became of it: {failure}") from failure
        if not found:
            raise lost(self.full_name, "somebody removed it")
        if found[0].health not in ("", "partial"):
            raise lost(self.full_name, self._overflow or found[0].health)

    def release(self) -> None:
        """See `Part.release`."""
        if not self._made:
            return
        self._made = False
        for last in (False, False, False, True):
            try:
                run("lvremove", "--yes", "--autobackup", "n", self.full_name)
            except ProgramError as failure:
                if "Failed to find logical volume" in str(failure):
                    return
                if last:
                    # It is found and removed when the agent starts again.
                    _log.warning("snapshot not removed", extra={"volume": self.full_name, "cause": str(failure)})
                # Somebody looks at it (udev does that with every new device).
                time.sleep(_AGAIN_SECONDS)
            else:
                return


class ThickSnapshot(_Snapshot):
    """A snapshot of a volume that isn't thin.

    Args:
        volume: The origin.
        owner: The agent's name.

    Attributes:
        extents: Its room; to be set before it is prepared.
    """

    def __init__(self, volume: Volume, *, owner: str) -> None:
        super().__init__(volume, owner=owner)
        self.extents = 0
        self._overflow = f"more was written to {volume.full_name} than it has room for"

    @property
    def suspends(self) -> int | None:
        """See `Part.suspends`."""
        return self.volume.device

    def prepare(self) -> None:
        """See `Part.prepare`."""
        room, least = self.extents * self.volume.extent_bytes, LEAST_ROOM * self.volume.size_bytes
        if self.extents < 1 or room < least:
            raise error(
                Code.SNAPSHOT_FAILED,
                f"volume group {self.volume.group} has {format_size(room)} free for a snapshot of "
                f"{self.volume.full_name}, which needs {format_size(int(least))} at least",
                value=self.volume.full_name,
                hint="give the group another disk (vgextend) or make a volume smaller; "
                f"{format_size(int(ROOM * self.volume.size_bytes))} are a good measure",
            )

    def take(self) -> None:
        """See `Part.take`."""
        self._made = True
        command = ["lvcreate", "--yes", "--snapshot", "--permission", "r", "--name", self.name]
        command += ["--extents", str(self.extents), *self._tags, *_QUIETLY, self.volume.full_name]
        try:
            run(*command, timeout=self.seconds, late=self._late)
        except ProgramError as failure:
            raise failed(f"no snapshot of {self.volume.full_name}", failure, value=self.volume.full_name) from failure

    def _late(self) -> None:
        self._made = True
        self.release()


class ThinSnapshot(_Snapshot):
    """A snapshot of a thin volume.

    Args:
        volume: The origin.
        owner: The agent's name.
    """

    def __init__(self, volume: Volume, *, owner: str) -> None:
        super().__init__(volume, owner=owner)
        self._mapper: Mapper | None = None
        self._pool = self._number = 0

    @property
    def guarded(self) -> int | None:
        """See `Part.guarded`."""
        return self.volume.device

    def prepare(self) -> None:
        """Make the snapshot that is renewed at the instant."""
        command = ["lvcreate", "--yes", "--snapshot", "--permission", "r", "--name", self.name]
        try:
            self._made = True
            run(*command, *self._tags, *_QUIETLY, self.volume.full_name)
            made = [volume for volume in volumes() if (volume.group, volume.name) == (self.volume.group, self.name)]
            self._mapper = Mapper()
        except ProgramError as failure:
            raise failed(
                f"no snapshot of {self.volume.full_name}",
                failure,
                value=self.volume.full_name,
                hint=f"give the thin pool {self.volume.group}/{self.volume.pool} more room (lvextend, also with "
                "--poolmetadatasize)",
            ) from failure
        except OSError as failure:
            raise error(Code.SNAPSHOT_FAILED, f"the device mapper can't be used: {failure.strerror}") from failure
        pools = [device for device in below(self.volume.device or 0) if mapper_id(device).endswith("-tpool")]
        if len(pools) != 1 or not made or made[0].thin_id is None or self.volume.thin_id is None:
            raise error(
                Code.SNAPSHOT_FAILED, f"the pool of {self.volume.full_name} isn't found", value=self.volume.full_name
            )
        self._pool, self._number = pools[0], made[0].thin_id

    def take(self) -> None:
        """See `Part.take`."""
        mapper, origin = self._mapper, self.volume.device
        assert mapper is not None  # noqa: S101 - opened by prepare
        assert origin is not None  # noqa: S101 - its pool was found by it
        try:
            mapper.message(self._pool, f"delete {self._number}")
            mapper.hold(origin)
            try:
                mapper.message(self._pool, f"create_snap {self._number} {self.volume.thin_id}")
            finally:
                mapper.resume(origin)
        except OSError as failure:
            text = f"the thin pool of {self.volume.full_name} takes no snapshot: {failure.strerror}"
            raise error(Code.SNAPSHOT_FAILED, text, value=self.volume.full_name) from failure

    def show(self) -> None:
        """See `Part.show`."""
        try:
            run("lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", "--autobackup", "n", self.full_name)
        except ProgramError as failure:
            raise failed(f"the snapshot of {self.volume.full_name} can't be read", failure) from failure

    def release(self) -> None:
        """See `Part.release`."""
        if self._mapper is not None:
            self._mapper.close()
        super().release()


class VolumeHold:
    """A disk that is a logical volume.

    Args:
        path: The disk.
        snapshot: Its volume's snapshot.
        reasons: Why the picture is no better than after a power cut; empty at ``fs``.
    """

    live = False
    settled = True

    def __init__(self, path: Path, snapshot: ThickSnapshot | ThinSnapshot, *, reasons: Sequence[str] = ()) -> None:
        self.kind = "lvm-thin" if isinstance(snapshot, ThinSnapshot) else "lvm"
        self.reasons = list(reasons)
        self.parts: Sequence[Part] = (snapshot,)
        self._path = path
        self._snapshot = snapshot

    def instant(self) -> None:
        """See `Hold.instant`; a snapshot doesn't change."""

    def source(self) -> Source:
        """See `Hold.source`."""
        return GuardedSource(open_source(self._snapshot.path), (self._snapshot,), path=str(self._path))

    def path(self) -> str:
        """See `Hold.path`."""
        return str(self._snapshot.path)

    def still(self) -> Sequence[Still]:
        """See `Hold.still`."""
        return [Still(0, None, self.path())]

    def moved(self) -> str:
        """See `Hold.moved`."""
        return ""


def owner_tag(owner: str) -> str:
    """Return the tag of an agent's snapshots."""
    return f"bootpoint.owner={owner}"


def rooms(wanted: Iterable[Volume]) -> Mapping[str, int]:
    """Return how many extents each thick volume's snapshot gets, by the volumes' keys.

    A volume's share of what its group has free goes by its size.
    """
    wanted = list(wanted)
    found = {}
    for volume in wanted:
        total = sum(other.size_bytes for other in wanted if other.group == volume.group)
        share = volume.free_extents * volume.size_bytes // total
        # one more, for the snapshot's own tables
        found[volume.key] = min(share, int(ROOM * volume.size_bytes / volume.extent_bytes) + 1)
    return found


def remove_leftovers(owner: str) -> None:
    """Remove the snapshots that this agent left behind when it died; those of others stay."""
    with suppress(ProgramError):  # no LVM here, or it can't tell: a next start tries again
        for volume in volumes():
            if owner_tag(owner) in volume.tags and _TAG in volume.tags:
                _log.info("leftover removed", extra={"volume": volume.full_name})
                run("lvremove", "--yes", "--autobackup", "n", volume.full_name)
