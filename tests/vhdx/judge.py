"""Readers of VHDX chains: dissect.hypervisor, libvhdi and the stand-in's are by other hands; and ours."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pyvhdi
from dissect.hypervisor.disk.vhdx import VHDX

from bootpoint_common.units import MiB
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.file import LocalFile
from tests.hyperv import avhdx, front, layout

#: Bytes that dissect.hypervisor is asked for: whole bytes of a sector bitmap, and never more than a block. It would
#: take the first bits of a byte for those in its midst, and what is asked for beyond a block from behind that.
PIECE = MiB


class Reader(Protocol):
    """A disk as one of them shows it."""

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes."""


class Dissect:
    """dissect.hypervisor; it follows the parents' relative paths by itself."""

    def __init__(self, paths: Sequence[Path], stack: ExitStack) -> None:
        self._disk = VHDX(paths[0])
        self._latest = -1, b""
        above: VHDX | None = self._disk
        for path in paths:
            assert above is not None, f"dissect.hypervisor sees no parent {path.name}"
            assert above.fh.name == str(path)
            stack.callback(above.fh.close)
            above = above.parent
        assert above is None

    def read(self, offset: int, length: int) -> bytes:
        start, end = offset // PIECE * PIECE, offset + length
        found = b"".join(self._piece(at) for at in range(start, end, PIECE))
        return found[offset - start : end - start]

    def _piece(self, at: int) -> bytes:
        if at != self._latest[0]:
            self._disk.seek(at)
            self._latest = at, self._disk.read(PIECE)
        return self._latest[1]


class _Bitmapped(io.RawIOBase):
    """A file that is read as if every chunk had its sector bitmap, an empty one where it has none.

    libvhdi 20260901 looks for the bits of a block that isn't present, too, and takes those of a bitmap that isn't there
    from the beginning of the file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._at, self._size = 0, os.fstat(self._descriptor).st_size
        self._end = -(-self._size // MiB) * MiB
        with avhdx.Vhdx(path) as disk:
            self._step = 8 * (disk.shape.chunk_ratio + 1)
            self._entries = disk.shape.entries if disk.shape.has_parent else 0
        self._bat, _ = front.read_regions(self._descriptor)[layout.BAT_REGION]

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._end + MiB)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = min(size if size >= 0 else self._end, self._end + MiB - self._at)
        data = bytearray(os.pread(self._descriptor, size, self._at).ljust(size, b"\0"))
        first = self._bat + self._step - 8
        skipped = max(0, -(-(self._at - first) // self._step))
        end = min(self._at + size, self._bat + 8 * self._entries)
        for place in range(first + skipped * self._step, end, self._step):
            at = place - self._at
            if not any(data[at : at + 8]):
                data[at : at + 8] = struct.pack("<Q", self._end | 6)[: len(data) - at]
        self._at += size
        return bytes(data)


class Libvhdi:
    """libvhdi, which checks the ids of parents."""

    def __init__(self, paths: Sequence[Path], stack: ExitStack) -> None:
        files = []
        for path in paths:
            source = stack.enter_context(_Bitmapped(path))
            file = pyvhdi.file()
            file.open_file_object(source)
            stack.callback(file.close)
            files.append(file)
        # The parents have theirs before a child gets them.
        for child, parent in reversed(list(itertools.pairwise(files))):
            child.set_parent(parent)
        self._disk = files[0]

    def read(self, offset: int, length: int) -> bytes:
        self._disk.seek_offset(offset, io.SEEK_SET)
        found = b""
        while len(found) < length and (more := self._disk.read_buffer(length - len(found))):
            found += more
        return found


class StandIn:
    """The stand-in's own reader, made of the specification alone."""

    def __init__(self, paths: Sequence[Path], stack: ExitStack) -> None:
        self._disk = stack.enter_context(avhdx.Vhdx(paths[0]))

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read(offset, length)


class Ours:
    """bootpoint's reader, which believes less of a file than the others do."""

    def __init__(self, paths: Sequence[Path], stack: ExitStack) -> None:
        self._disk = stack.enter_context(contextlib.closing(Chain([LocalFile(path) for path in paths])))

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read(offset, length)


#: Any of them.
Kind = type[Dissect | Libvhdi | StandIn | Ours]


@contextlib.contextmanager
def opened_by(paths: Sequence[Path], kind: Kind) -> Iterator[Reader]:
    """Open a chain, leaf first, in one of them while a block lasts."""
    with ExitStack() as stack:
        yield kind(paths, stack)


def agreed(
    paths: Sequence[Path],
    ranges: Sequence[tuple[int, int]],
    kinds: Sequence[Kind] = (Dissect, Libvhdi),
) -> list[bytes]:
    """Read ranges (offset, length) of a chain, leaf first, in several readers, which have to agree."""
    answers = []
    for kind in kinds:
        with opened_by(paths, kind) as reader:
            answers.append([reader.read(*one) for one in ranges])
    for other in answers[1:]:
        for (offset, length), one, another in zip(ranges, answers[0], other, strict=True):
            assert one == another, f"the readers disagree about {length} bytes at {offset}"
    return answers[0]
