"""The snapshots that the tracker of thin volumes keeps: one of each volume that it follows.

They are LVM's, read-only, never activated, and carry two tags: `PREFIX`, and one that names the agent and the volume.
What is kept of a volume is also written into the agent's directory, for a snapshot alone doesn't say which generations
were stored: where the two don't agree (a directory that came back old, a snapshot that somebody removed), tracking
begins anew, and what carries the tag without being kept is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import msgspec

from bootpoint_common.durable import sync_folder

from .thinpool import ThinVolume, run

#: Name and tag of kept snapshots begin with this.
PREFIX = "bootpoint-kept"

#: LVM's backups of metadata go to the root file system, which may be frozen when another run is at its instant.
_QUIET = ("--autobackup", "n", "--yes", "--quiet", "--quiet")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshot that the open generation of a volume began with.

    Attributes:
        tracker: Id of the tracking.
        sequence: Number of the generation that it closed.
        lv: Its UUID for LVM.
        name: Its name, ``VG/LV``.
        device_id: Its number in the pool.
        pool: UUID of its pool for the device mapper.
        size_bytes: Size of the volume when the tracking began.
    """

    tracker: str
    sequence: int
    lv: str
    name: str
    device_id: int
    pool: str
    size_bytes: int


class KeptSnapshots:
    """The kept snapshots of an agent; used by one thread at a time.

    Args:
        directory: The agent's own; its path tells this agent's snapshots from those of others.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "thin"
        self._owner = hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:16]

    def make(self, volume: ThinVolume, picture: ThinVolume, tracker: str, sequence: int) -> Kept:
        """Make a snapshot of the picture of a volume; it is kept once it is stored.

        Args:
            volume: The volume that is followed.
            picture: What is read of it: a snapshot of it, or itself.
            tracker: Id of the tracking.
            sequence: Number of the generation that ends with it.

        Raises:
            OSError: LVM refuses; the message says why.
        """
        (origin,) = _volumes(f"lv_uuid={_lvm_uuid(picture.uuid)}")
        name, group = f"{PREFIX}-{tracker[:12]}-{sequence}", origin["vg_name"]
        tags = ("--addtag", PREFIX, "--addtag", self._tag(volume.uuid))
        command = ("lvm", "lvcreate", *_QUIET, "--snapshot", "--permission", "r", "--setactivationskip", "y", *tags)
        run(*command, "--name", name, f"{group}/{origin['lv_name']}")
        (made,) = _volumes(f"lv_name={name} && vg_name={group}")
        return Kept(
            tracker=tracker,
            sequence=sequence,
            lv=made["lv_uuid"],
            name=f"{group}/{name}",
            device_id=int(made["thin_id"]),
            pool=volume.pool_uuid,
            size_bytes=volume.size_bytes,
        )

    def get(self, volume: ThinVolume) -> Kept | None:
        """Return the snapshot kept of a volume, if it is there as it was."""
        kept = _read(self._file(volume.uuid))
        if kept is None or kept.pool != volume.pool_uuid or kept.size_bytes != volume.size_bytes:
            return None
        found = _volumes(f"lv_uuid={kept.lv}")
        there = [lv for lv in found if lv["thin_id"] == str(kept.device_id) and self._tag(volume.uuid) in _tags(lv)]
        return kept if there else None

    def forget(self, uuid: str) -> None:
        """Keep nothing of a volume any more."""
        self._file(uuid).unlink(missing_ok=True)
        self.remove_others(uuid)

    def remove_others(self, uuid: str) -> None:
        """Remove every snapshot of a volume but the one that is kept."""
        kept = _read(self._file(uuid))
        for lv in _volumes(f"lv_tags={self._tag(uuid)}"):
            if kept is None or lv["lv_uuid"] != kept.lv:
                run("lvm", "lvremove", *_QUIET, f"{lv['vg_name']}/{lv['lv_name']}")

    def store(self, volume: ThinVolume, kept: Kept) -> None:
        """Write, for certain, which snapshot of a volume is kept."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._file(volume.uuid)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            stream.write(msgspec.json.encode(kept))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        sync_folder(self._directory)

    def all(self) -> list[tuple[str, Kept | None, float]]:
        """Return, of each volume, its UUID for the device mapper, what is kept of it, and for how many seconds.

        Where nobody can read what is kept, that is None.
        """
        now = time.time()
        return [(file.stem, _read(file), now - file.stat().st_mtime) for file in self._directory.glob("*.kept")]

    def _file(self, uuid: str) -> Path:
        return self._directory / f"{uuid}.kept"

    def _tag(self, uuid: str) -> str:
        """Return the tag of a volume's snapshots: it names the agent and the volume."""
        return f"{PREFIX}.{self._owner}.{uuid.removeprefix('LVM-')}"


def _volumes(selection: str) -> list[dict[str, str]]:
    """Return the volumes of LVM that a selection (man lvmreport) finds."""
    columns = "vg_name,lv_name,lv_uuid,thin_id,lv_tags"
    printed = run("lvm", "lvs", "--all", "--reportformat", "json", "--options", columns, "--select", selection)
    try:
        found: list[dict[str, str]] = json.loads(printed)["report"][0]["lv"]
    except (ValueError, LookupError) as failure:
        raise OSError(f"lvs printed what is no report: {failure}") from failure
    return found


def _tags(lv: dict[str, str]) -> list[str]:
    return lv["lv_tags"].split(",")


def _lvm_uuid(uuid: str) -> str:
    """Return LVM's spelling of a volume's UUID: what the device mapper calls LVM-<group><volume>[-<part>]."""
    text = uuid.removeprefix("LVM-")[32:64]
    parts, at = [], 0
    for length in (6, 4, 4, 4, 4, 4, 6):
        parts.append(text[at : at + length])
        at += length
    return "-".join(parts)


def _read(file: Path) -> Kept | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Kept)
    except (FileNotFoundError, ValueError):  # msgspec's errors are ValueErrors
        return None
