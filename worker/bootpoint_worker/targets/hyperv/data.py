"""Reading and writing disks: VHDX files, over a connection of SMB for each that is opened."""

from __future__ import annotations

import contextlib
import ntpath
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NoReturn, TypeVar

from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_worker.smb import SmbFile, SmbFiles
from bootpoint_worker.targets.hyperv.host import Host, session_of
from bootpoint_worker.targets.hyperv.way import smb_access
from bootpoint_worker.targets.snapshots.vm import Disk
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.fault import malformed
from bootpoint_worker.vhdx.image import identify
from bootpoint_worker.vhdx.locator import ParentLink
from bootpoint_worker.vhdx.view import View, shared
from bootpoint_worker.vhdx.writer import VhdxWriter

_T = TypeVar("_T")

#: Most files of a chain: Hyper-V keeps 50 checkpoints of a VM.
LONGEST = 64

#: Writes between two flushes that are read back, and most bytes of each: a sample for faults of the way, not of disks.
SAMPLES, SAMPLE_BYTES = 8, 64 * 1024


def open_chain(files: SmbFiles, path: str, *, writable: bool = False) -> Chain:
    """Open a disk's file and those beneath it, as each names its parent.

    Args:
        files: A connection of its own, which ends with the chain.
        path: The file.
        writable: Whether the file itself may be changed.

    Raises:
        BootpointError: ``layer_lost``: one isn't there; ``target_check_failed``: one is damaged, or isn't another's
            parent; ``busy``: a VM, or the host, has one open.
    """
    opened: list[SmbFile] = []
    try:
        while path:
            if len(opened) == LONGEST:
                raise malformed(path, f"it has more than {LONGEST} parents, or is its own")
            opened.append(files.open(path, writable=writable and not opened))
            link = identify(opened[-1]).metadata.parent
            path = _parent_path(path, link) if link is not None else ""
        return Chain(opened)
    except BaseException:
        for file in opened:
            file.close()
        raise


def _parent_path(child: str, link: ParentLink) -> str:
    """Return where a file says that its parent is: from its own folder if it can, for folders are moved as a whole."""
    if link.relative_path:
        return ntpath.normpath(ntpath.join(ntpath.dirname(child), link.relative_path))
    if link.absolute_path:
        return ntpath.normpath(link.absolute_path.removeprefix("\\\\?\\"))
    raise malformed(child, "it doesn't say where its parent is")


class HyperVReader:
    """A reader with a connection of its own; see `LayerReader`.

    Args:
        host: The host's name.
        files: The connection.
        chain: The disk.
        size_bytes: Size of the disk at the source.
    """

    def __init__(self, host: str, files: SmbFiles, chain: Chain, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._host = host
        self._files = files
        self._chain = chain

    def read(self, offset: int, length: int) -> bytes:
        """See `LayerReader.read`."""
        self._inside(offset, length)
        return self._chain.read(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """See `LayerReader.extents`."""
        self._inside(offset, length)
        return self._chain.extents(offset, length)

    def stream(self, ranges: Iterable[tuple[int, int]]) -> Generator[tuple[int, memoryview], None, None]:
        """See `LayerReader.stream`."""
        return self._chain.stream(self._checked(ranges))

    def close(self) -> None:
        """See `LayerReader.close`."""
        self._chain.close()
        self._files.close()

    def _checked(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for offset, length in ranges:
            self._inside(offset, length)
            yield offset, length

    def _inside(self, offset: int, length: int) -> None:
        require_inside(self._host, self.size_bytes, offset, length)


def require_inside(host: str, size_bytes: int, offset: int, length: int) -> None:
    """Refuse a range that isn't the disk's.

    Raises:
        RetryableError: ``target_write_error``.
    """
    if offset < 0 or offset + length > size_bytes:
        text = f"{length} bytes at {offset} lie outside a disk of {size_bytes}"
        raise error(Code.TARGET_WRITE_ERROR, text, host=host)


class HyperVWriter:
    """A writer with a connection of its own; see `LayerWriter`.

    Args:
        host: The host's name.
        files: The connection.
        chain: The leaf, open for writing, and what is beneath it.
        size_bytes: Size of the disk at the source.
        explain: Finds out why the host took the file away, and raises that.
    """

    def __init__(
        self, host: str, files: SmbFiles, chain: Chain, size_bytes: int, explain: Callable[[], NoReturn]
    ) -> None:
        self._host = host
        self._size = size_bytes
        self._files = files
        self._explain = explain
        self._failure: BootpointError | Fenced | None = None
        self._samples: deque[tuple[int, bytes]] = deque(maxlen=SAMPLES)
        self._writer = VhdxWriter(chain)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See `LayerWriter.write`."""
        view = memoryview(data).cast("B")
        self._guarded(offset, len(view), lambda: self._writer.write(offset, view))
        self._overwritten(offset, len(view))
        self._samples.append((offset, bytes(view[:SAMPLE_BYTES])))

    def zero(self, offset: int, length: int) -> None:
        """See `LayerWriter.zero`."""
        self._guarded(offset, length, lambda: self._writer.zero(offset, length))
        self._overwritten(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """See `LayerWriter.read`."""
        return self._guarded(offset, length, lambda: self._writer.read(offset, length))

    def flush(self) -> None:
        """Make it durable, and read some of it back; see `LayerWriter.flush`."""
        self._guarded(0, 0, self._writer.flush)
        while self._samples:
            offset, data = self._samples.popleft()
            if self.read(offset, len(data)) != data:
                text = f"host {self._host} shows other bytes at {offset} than were written"
                self._failure = error(Code.TARGET_CHECK_FAILED, text, host=self._host)
                raise self._failure

    def close(self) -> None:
        """See `LayerWriter.close`."""
        self._writer.close()
        self._files.close()

    def _overwritten(self, offset: int, length: int) -> None:
        """Forget the samples that a later write has changed."""
        kept = [each for each in self._samples if each[0] >= offset + length or each[0] + len(each[1]) <= offset]
        self._samples = deque(kept, maxlen=SAMPLES)

    def _guarded(self, offset: int, length: int, work: Callable[[], _T]) -> _T:
        """Do a part of the work; once something failed, everything fails: a later flush must not hide it."""
        if self._failure is not None:
            raise self._failure
        require_inside(self._host, self._size, offset, length)
        try:
            return work()
        except BootpointError as problem:
            self._failure = problem
        if self._failure.code in (Code.HOST_FULL, Code.TARGET_CHECK_FAILED):
            raise self._failure
        # The host ended the file's handle: for a later claim, a VM that was started, or because it went away.
        try:
            self._explain()
        except (BootpointError, Fenced) as why:
            self._failure = why
            raise


def open_writer(host: Host, disk: Disk, explain: Callable[[], NoReturn]) -> HyperVWriter:
    """Write to a leaf; see `Host.writer`.

    Raises:
        RetryableError: ``torn_leaf``: it is damaged, or its log isn't empty; it isn't continued.
    """
    files = SmbFiles(smb_access(session_of(disk.vm).access))
    try:
        chain = open_chain(files, disk.file, writable=True)
        return HyperVWriter(host.name, files, chain, disk.size_bytes, explain)
    except BootpointError as problem:
        files.close()
        if problem.code is not Code.TARGET_CHECK_FAILED:
            raise
        raise error(Code.TORN_LEAF, problem.message, hint=problem.hint, host=host.name) from problem
    except BaseException:
        files.close()
        raise


def open_reader(host: Host, disk: Disk) -> HyperVReader:
    """Read a disk; see `Host.reader`."""
    files = SmbFiles(smb_access(session_of(disk.vm).access))
    try:
        return HyperVReader(host.name, files, open_chain(files, disk.file), disk.size_bytes)
    except BaseException:
        files.close()
        raise


@contextlib.contextmanager
def served(host: Host, disk: Disk, *, writable: bool) -> Iterator[str]:
    """Serve a disk while the block lasts; see `Host.served`."""
    access = smb_access(session_of(disk.vm).access)
    files = SmbFiles(access)
    try:
        chain = open_chain(files, disk.file)
        paths = tuple(image.file.name for image in chain.images)
        chain.close()
    finally:
        files.close()
    with shared(host.name, View(files=paths, access=access, writable=writable), disk.file) as share:
        yield share.socket
