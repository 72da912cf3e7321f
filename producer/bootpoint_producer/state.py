"""What an agent keeps: its key, the block maps of the points that the replicas stand on, the runs it has ended.

::

    DIR/identity.json                       who this agent is, and its key (0600)
    DIR/authority.pem                       the authority of the broker's certificate, where the token named it
    DIR/maps/<replica>/base                 the id of the point that the replica's head is, as far as is known here
    DIR/maps/<replica>/<point>/<slot>.map   its block map
    DIR/maps/<replica>/<point>/point.json   size and root of each disk: what makes it a base
    DIR/trackers/                           what was written between runs, see `trackers.generation`
    DIR/incarnation                         the newest start of this agent
    DIR/owed/<run>.json                     a script that has to run, see `stage`
    DIR/ended.json                          runs that ended here, so that a repeated order doesn't begin one anew

The directory may lie on the very disk that is protected, so it may come back old. Hence a base is never believed for
its place alone: id, size and root of every disk must equal the head's.
"""

from __future__ import annotations

import base64
import glob
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common.blockmap import BlockMap, DamagedMap
from bootpoint_common.cipher import AgentKey
from bootpoint_common.digest import SEGMENT_GRAINS, segment_digest, segment_grains
from bootpoint_common.durable import sync_folder
from bootpoint_common.identity import new_id
from bootpoint_common.message import Base, BaseDisk
from bootpoint_common.units import GRAIN

from .trackers.generation import Mark

_log = logging.getLogger(__name__)

#: Ended runs that are remembered.
_ENDED = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an agent is.

    Attributes:
        name: Its name.
        pool: Its home pool.
        broker_url: The broker with its own login; empty where bootpoint runs in one process.
        key: Its key.
        machine: The machine that it joined from.
    """

    name: str
    pool: str
    broker_url: str
    key: AgentKey
    machine: dict[str, Any]


class AgentState:
    """The agent's directory; used by one process.

    Args:
        directory: Made when it isn't there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._maps = directory / "maps"
        self._maps.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- identity

    def identity(self) -> Identity | None:
        """Read who this agent is; None before it joined."""
        try:
            stored = json.loads((self.directory / "identity.json").read_text())
        except FileNotFoundError:
            return None
        key = AgentKey(stored["key_id"], base64.b64decode(stored["key"]))
        return Identity(stored["name"], stored["pool"], stored["broker_url"], key, stored["machine"])

    def keep_identity(self, identity: Identity) -> None:
        """Write who this agent is; maps of an earlier identity are kept, for they are checked by root."""
        stored = {
            "name": identity.name,
            "pool": identity.pool,
            "broker_url": identity.broker_url,
            "key_id": identity.key.key_id,
            "key": base64.b64encode(identity.key.secret).decode(),
            "machine": identity.machine,
        }
        replace_file(self.directory / "identity.json", json.dumps(stored))

    def new_incarnation(self) -> UUID:
        """Name a start of the agent: greater than all before it, even where the clock was set back in between."""
        file = self.directory / "incarnation"
        try:
            before = UUID(file.read_text())
        except (FileNotFoundError, ValueError):
            before = None
        made = new_id(before)
        try:
            replace_file(file, str(made))
        except OSError as failure:
            # A machine in trouble must not lose its agent as well; the clock alone will do in nearly every case.
            _log.warning("the start can't be written down", extra={"file": str(file), "cause": str(failure)})
        return made

    # --- maps

    def map_path(self, replica_id: UUID, point_id: UUID, slot: str) -> Path:
        """Return where the block map of a disk of a point belongs; its folder is made."""
        folder = self._maps / str(replica_id) / str(point_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{slot}.map"

    def keep_point(
        self,
        replica_id: UUID,
        point_id: UUID,
        disks: Mapping[str, tuple[int, bytes]],
        marks: Mapping[str, Mark] = MappingProxyType({}),
    ) -> None:
        """Write, for certain, that the maps of a point are complete: size in bytes and root of each slot.

        The maps themselves were synced before. Only then may the seal be sent.

        Args:
            replica_id: The replica.
            point_id: The point.
            disks: Size in bytes and root of each slot.
            marks: Where the slots that are followed stand in what their trackers saw.
        """
        folder = self._maps / str(replica_id) / str(point_id)
        stored: dict[str, dict[str, Any]] = {
            slot: {"size_bytes": size, "root": root.hex()} for slot, (size, root) in disks.items()
        }
        for slot, mark in marks.items():
            stored[slot]["mark"] = msgspec.to_builtins(mark)
        replace_file(folder / "point.json", json.dumps(stored))
        sync_folder(folder.parent)
        sync_folder(self._maps)

    def held(self, replica_id: UUID, point_id: UUID) -> Base | None:
        """Return what is held of a point; None when its maps aren't complete."""
        try:
            stored = json.loads((self._maps / str(replica_id) / str(point_id) / "point.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        disks = [
            BaseDisk(slot=slot, size_bytes=disk["size_bytes"], grain=GRAIN, root=bytes.fromhex(disk["root"]))
            for slot, disk in stored.items()
        ]
        return Base(point_id=point_id, disks=disks)

    def mark(self, replica_id: UUID, point_id: UUID, slot: str) -> Mark | None:
        """Return where a disk of a held point stands in what its tracker saw; None where that isn't known."""
        return _marks(self._maps / str(replica_id) / str(point_id) / "point.json").get(slot)

    def marks(self) -> list[Mark]:
        """Return the marks of every point that is held, bases and candidates."""
        return [mark for file in self._maps.glob("*/*/point.json") for mark in _marks(file).values()]

    def base(self, replica_id: UUID) -> Base | None:
        """Return the base of a replica, as far as is known here."""
        try:
            point_id = UUID((self._maps / str(replica_id) / "base").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return self.held(replica_id, point_id)

    def bases(self) -> list[tuple[UUID, Base]]:
        """Return every replica whose base is held here, with the base."""
        replicas = sorted(UUID(folder.name) for folder in self._maps.iterdir())
        return [(replica, base) for replica in replicas if (base := self.base(replica)) is not None]

    def entries(self, replica_id: UUID, slot: str, wanted: Mapping[int, bytes]) -> dict[int, bytes]:
        """Look segments up in the maps of a disk, whatever point they are of.

        Args:
            replica_id: The replica.
            slot: The disk.
            wanted: Number and digest of each segment.

        Returns:
            The entries of those that a map holds with that digest.
        """
        found: dict[int, bytes] = {}
        for file in sorted((self._maps / str(replica_id)).glob(f"*/{glob.escape(slot)}.map")):
            try:
                with BlockMap.open(file) as held:
                    for number in wanted.keys() - found.keys():
                        if 0 <= number < held.segments:
                            entries = held.entries(number * SEGMENT_GRAINS, segment_grains(held.size_bytes, number))
                            if segment_digest(entries) == wanted[number]:
                                found[number] = entries
            except (FileNotFoundError, DamagedMap):
                continue  # dropped meanwhile, or a candidate in the making
        return found

    def adopt(self, replica_id: UUID, point_id: UUID) -> bool:
        """Make a held point the replica's base, and drop what isn't needed any more.

        Returns:
            False where nothing is held of the point: the next run finds its base missing and says so.
        """
        if self.held(replica_id, point_id) is None:
            return False
        base = self.base(replica_id)
        if base is not None and base.point_id == point_id:
            return True  # said again: beside it may be the next point's map, in the making
        folder = self._maps / str(replica_id)
        replace_file(folder / "base", str(point_id))
        for other in folder.iterdir():
            if other.is_dir() and other.name != str(point_id):
                shutil.rmtree(other)
        return True

    def drop(self, replica_id: UUID, point_id: UUID) -> None:
        """Forget a candidate; the base is never dropped this way."""
        base = self.base(replica_id)
        if base is None or base.point_id != point_id:
            shutil.rmtree(self._maps / str(replica_id) / str(point_id), ignore_errors=True)

    def check(self) -> list[str]:
        """Compare every held map with its digests and its root, and drop what doesn't match.

        Returns:
            What was dropped, as ``<replica>/<point>``.
        """
        dropped = []
        for folder in self._maps.glob("*/*/"):
            replica_id, point_id = UUID(folder.parent.name), UUID(folder.name)
            if not self._intact(replica_id, point_id):
                shutil.rmtree(folder)
                dropped.append(f"{replica_id}/{point_id}")
        return dropped

    def _intact(self, replica_id: UUID, point_id: UUID) -> bool:
        base = self.held(replica_id, point_id)
        if base is None:
            return False
        for disk in base.disks:
            try:
                with BlockMap.open(self.map_path(replica_id, point_id, disk.slot)) as held:
                    if held.size_bytes != disk.size_bytes or held.check() or held.root() != disk.root:
                        return False
            except (FileNotFoundError, DamagedMap):
                return False
        return True

    # --- ended runs

    def ended(self) -> list[UUID]:
        """Return the runs that ended here, oldest first."""
        try:
            return [UUID(text) for text in json.loads((self.directory / "ended.json").read_text())]
        except (FileNotFoundError, ValueError):
            return []

    def keep_ended(self, run: UUID) -> None:
        """Remember that a run has ended."""
        known = [*[other for other in self.ended() if other != run], run][-_ENDED:]
        replace_file(self.directory / "ended.json", json.dumps([str(other) for other in known]))


def _marks(file: Path) -> dict[str, Mark]:
    try:
        stored = json.loads(file.read_text())
        return {slot: msgspec.convert(disk["mark"], Mark) for slot, disk in stored.items() if "mark" in disk}
    except (FileNotFoundError, json.JSONDecodeError, msgspec.ValidationError):
        return {}


def replace_file(file: Path, text: str) -> None:
    """Write a file so that a crash leaves the old content or the new one."""
    part = file.with_name(file.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    sync_folder(file.parent)
