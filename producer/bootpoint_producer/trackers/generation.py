"""What was written between two instants, kept until no replica's base needs it.

::

    DIR/trackers/<tracker id>/<number>.grains

The directory may lie on the very disk that is protected, so it may come back old: then a number is missing between the
base's and the newest one, and the run uses a hash scan.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bootpoint_common.durable import sync_folder

from .grains import Grains
from .provider import Armed, Generation

_log = logging.getLogger(__name__)

_SUFFIX = ".grains"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Where in a tracker's generations a point stands; stored with the point's block maps.

    Attributes:
        provider: Who tracked.
        tracker: Id of the tracking.
        sequence: The newest generation whose writes the point holds for certain.
        boot: Id of the machine's boot, where tracking ends with it; else empty.
        identity: What told the disk from others.
        size_bytes: Its size when its tracking began.
    """

    provider: str
    tracker: str
    sequence: int
    boot: str
    identity: str
    size_bytes: int


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    sequence: int
    count: int
    grain_bytes: int
    overflow: bool
    packed: bytes


def doubt(mark: Mark | None, provider: str, armed: Armed) -> str | None:
    """Say why what was tracked since a point can't be believed; None where nothing speaks against it.

    Args:
        mark: Where the point stands; None where nothing was tracked when it was made.
        provider: Who tracks now.
        armed: The tracking as it is now.

    Returns:
        A reason of the contract's enumeration.
    """
    if mark is None or mark.provider != provider:
        return "first"
    if mark.boot != armed.boot:
        # First of all: after a reboot the tracking and the kernel's names of disks are new as well.
        return "boot_id"
    if mark.identity != armed.identity:
        return "disk_identity"
    if mark.size_bytes != armed.size_bytes:
        return "grown"
    return "tracker_lost" if mark.tracker != armed.tracker else None


class GenerationStore:
    """The stored generations of every tracker; may be used by several threads.

    Args:
        directory: Made when something is stored.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, tracker: str, generation: Generation) -> None:
        """Store a generation for certain; one that is stored already stays as it is."""
        file = self._file(tracker, generation.sequence)
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        grains = generation.grains
        stored = _Stored(
            sequence=generation.sequence,
            count=len(grains.cells),
            grain_bytes=grains.grain_bytes,
            overflow=generation.overflow,
            packed=grains.packed(),
        )
        part = file.with_name(f"{file.name}.{os.urandom(4).hex()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.msgpack.encode(stored))
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        for folder in (file.parent, self._directory, self._directory.parent):
            sync_folder(folder)

    def union(self, tracker: str, after: int, last: int) -> Grains | str:
        """Join all generations of a range.

        Args:
            tracker: Whose.
            after: Number before the first one.
            last: Number of the last one; at least ``after + 1``.

        Returns:
            What was written; or why that isn't known: ``tracker_lost`` or ``overflow``.
        """
        found: Grains | None = None
        for sequence in range(after + 1, last + 1):
            generation = self._get(tracker, sequence)
            if generation is None:
                return "tracker_lost"
            if generation.overflow:
                return "overflow"
            try:
                found = generation.grains if found is None else found.union(generation.grains)
            except ValueError:
                return "tracker_lost"
        return "tracker_lost" if found is None else found

    def sweep(self, needed: Mapping[str, int]) -> None:
        """Drop what nobody needs.

        Args:
            needed: Of each tracker that is still of use, the newest number that nobody needs any more.
        """
        if not self._directory.is_dir():
            return
        for folder in self._directory.iterdir():
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in folder.iterdir():
                number = file.name.removesuffix(_SUFFIX)
                if not number.isdecimal() or int(number) <= needed[folder.name]:
                    file.unlink(missing_ok=True)

    def _get(self, tracker: str, sequence: int) -> Generation | None:
        try:
            stored = msgspec.msgpack.decode(self._file(tracker, sequence).read_bytes(), type=_Stored)
            grains = Grains.unpacked(stored.packed, stored.count, stored.grain_bytes)
        except FileNotFoundError:
            return None
        except (ValueError, msgspec.MsgspecError) as damage:
            _log.warning("a stored generation can't be used", extra={"generation": sequence, "cause": str(damage)})
            return None
        return Generation(stored.sequence, grains, stored.overflow) if stored.sequence == sequence else None

    def _file(self, tracker: str, sequence: int) -> Path:
        return self._directory / tracker / f"{sequence}{_SUFFIX}"
