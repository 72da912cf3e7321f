"""Generations of writes, as the program in the kernel notes them.

A disk's open generation is the array of cells that the map of maps leads to. Ending it puts a fresh array in its
place. The kernel returns from that only when no program uses the old one any more, so from then on it doesn't change,
and every write is in one of the two. Each array has a name in the BPF file system, which carries its number: tracking
goes on while the agent is away, and what was closed waits until it was stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_producer.probe import line_of
from bootpoint_producer.trackers.grains import Grains
from bootpoint_producer.trackers.provider import Armed, Generation

from . import library
from .cells import Cells, Header, made
from .disk import Disk, disk, why_not
from .program import Hearing, Program

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class _Next:
    """An array that is ready to be put in place at an instant; making one takes too long for that."""

    descriptor: int
    header: Header


class EbpfProvider:
    """See `provider.Provider`.

    Args:
        program: What runs in the kernel.
    """

    name = "ebpf"

    def __init__(self, program: Program | None = None) -> None:
        self._program = program if program is not None else Program()
        self._next: dict[int, _Next] = {}

    def why_not(self, path: Path) -> str | None:
        """See `Provider.why_not`."""
        return why_not(path) or self._program.why_not()

    def arm(self, path: Path) -> Armed:
        """See `Provider.arm`."""
        found = disk(path)
        hearing = self._program.attach()
        header = self._open_generation(found, hearing)
        if header is None:
            header = self._begin(found, hearing)
        self._drop_next(found)
        self._next[found.number] = _Next(made(header), header)
        return _armed(found, header)

    def instant(self, path: Path) -> int:
        """See `Provider.instant`."""
        found = disk(path)
        with self._program.disks() as disks:
            sequence, place = self._newest(found, disks)
            upcoming = self._next.pop(found.number, None)
            with library.pinned(place) as closing, Cells.opened(closing) as cells:
                if upcoming is None or upcoming.header.tracker != cells.header.tracker:
                    upcoming = _Next(made(cells.header), cells.header)
                try:
                    missed = self._program.hearing().missed
                    with Cells.opened(upcoming.descriptor) as fresh:
                        fresh.write_header(sequence=sequence + 1, missed=missed)
                    # Named first: an array in use without a name would be lost with the agent.
                    library.pin(upcoming.descriptor, self._program.place(found.major, found.minor, sequence + 1))
                    library.put(disks, found.number, upcoming.descriptor)
                finally:
                    os.close(upcoming.descriptor)
                # Read again: what was left out in between may belong to either.
                if self._program.hearing().missed != cells.header.missed:
                    cells.mark_overflow()
        return sequence

    def collect(self, path: Path) -> list[Generation]:
        """See `Provider.collect`."""
        found = disk(path)
        with self._still_heard(found) as newest:
            generations = []
            for sequence, place in self._program.generations(found.major, found.minor).items():
                if sequence < newest:
                    with library.pinned(place) as descriptor, Cells.opened(descriptor) as cells:
                        generations.append(Generation(sequence, *cells.read()))
        return generations

    def let_go(self, path: Path, sequence: int) -> None:
        """See `Provider.let_go`."""
        found = disk(path)
        with self._program.disks() as disks:
            newest, _ = self._newest(found, disks)
        for number, place in self._program.generations(found.major, found.minor).items():
            if number <= sequence and number < newest:
                place.unlink(missing_ok=True)

    def written_since(self, path: Path) -> Grains | None:
        """See `Provider.written_since`."""
        found = disk(path)
        with self._program.disks() as disks:
            _, place = self._newest(found, disks)
        with library.pinned(place) as descriptor, Cells.opened(descriptor) as cells:
            grains, overflow = cells.read()
        return None if overflow else grains

    def picture(self, path: Path, picture: Path) -> None:
        """See `Provider.picture`; writes are what counts."""

    def keep_only(self, trackers: Collection[str]) -> None:
        """See `Provider.keep_only`; a disk that nobody needs isn't followed any more."""
        for (major, minor), places in self._program.followed().items():
            for place in places:
                with library.pinned(place) as descriptor, Cells.opened(descriptor) as cells:
                    header = cells.header
                    if str(uuid.UUID(bytes=header.tracker)) in trackers:
                        continue
                    with self._program.disks() as disks:
                        if library.inner_id(disks, number := major << 20 | minor) == library.map_id(descriptor):
                            library.remove(disks, number)
                place.unlink(missing_ok=True)

    def upkeep(self) -> None:
        """See `Provider.upkeep`; memory is all that it holds."""

    # --- the open generation

    def _newest(self, found: Disk, disks: int) -> tuple[int, Path]:
        """Return number and name of the generation that is open.

        Raises:
            OSError: There is none, or it has no name.
        """
        open_id = library.inner_id(disks, found.number)
        for sequence, place in reversed(self._program.generations(found.major, found.minor).items()):
            with library.pinned(place) as descriptor:
                if library.map_id(descriptor) == open_id:
                    return sequence, place
        raise FileNotFoundError(f"the writes of disk {found.major}:{found.minor} aren't followed any more")

    def _open_generation(self, found: Disk, hearing: Hearing) -> Header | None:
        """Return the header of the open generation; None where anything speaks against what was followed so far."""
        try:
            with self._program.disks() as disks:
                sequence, place = self._newest(found, disks)
            with library.pinned(place) as descriptor, Cells.opened(descriptor) as cells:
                header = cells.header
        except (OSError, ValueError):
            return None
        believed = (
            header.sequence == sequence
            and header.identity == _digest(found)
            and header.size_bytes == found.size_bytes
            and header.links == hearing.links
        )
        if not believed:
            return None
        for number, place in self._program.generations(found.major, found.minor).items():
            if number > sequence:  # a crash between naming it and putting it in place
                place.unlink(missing_ok=True)
        return header

    def _begin(self, found: Disk, hearing: Hearing) -> Header:
        """Follow a disk anew."""
        for place in self._program.generations(found.major, found.minor).values():
            place.unlink(missing_ok=True)
        header = Header.of(
            found.size_bytes,
            tracker=uuid.uuid4().bytes,
            missed=hearing.missed,
            identity=_digest(found),
            links=hearing.links,
        )
        descriptor = made(header)
        try:
            library.pin(descriptor, self._program.place(found.major, found.minor, header.sequence))
            with self._program.disks() as disks:
                library.put(disks, found.number, descriptor)
        finally:
            os.close(descriptor)
        return header

    @contextmanager
    def _still_heard(self, found: Disk) -> Iterator[int]:
        """Yield the number of the open generation, after a look whether all was heard until now."""
        with self._program.disks() as disks:
            sequence, place = self._newest(found, disks)
            with library.pinned(place) as descriptor, Cells.opened(descriptor) as cells:
                if cells.header.links != self._program.hearing().links:
                    raise FileNotFoundError("the program in the kernel was replaced")
                if cells.header.identity != _digest(found):
                    raise FileNotFoundError("another disk has taken the place of this one")
            yield sequence

    def _drop_next(self, found: Disk) -> None:
        unused = self._next.pop(found.number, None)
        if unused is not None:
            with contextlib.suppress(OSError):
                os.close(unused.descriptor)


def _armed(found: Disk, header: Header) -> Armed:
    boot = line_of(_BOOT) or ""
    tracker = str(uuid.UUID(bytes=header.tracker))
    return Armed(tracker, header.sequence, boot, found.identity, header.size_bytes)


def _digest(found: Disk) -> bytes:
    return hashlib.sha256(found.identity.encode()).digest()
