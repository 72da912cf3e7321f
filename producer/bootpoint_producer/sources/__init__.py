"""What an agent can read: raw files and block devices."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_common.units import SECTOR
from bootpoint_producer.sources.base import Source
from bootpoint_producer.sources.block import BlockSource
from bootpoint_producer.sources.file import FileSource

__all__ = ["Source", "open_source"]


def open_source(path: str | Path, descriptor: int | None = None) -> Source:
    """Open a raw file or a block device for reading; nothing else is ever done to it.

    Args:
        path: Its path.
        descriptor: The file, when it is open already and may have no name any more; belongs to the source,
            or is closed.

    Raises:
        BootpointError: ``disk_missing``; ``source_ineligible`` for what is no disk; ``disk_read_error``.
    """
    path = str(path)
    if descriptor is None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as failure:
            # ENOMEDIUM: a card reader without a card
            gone = failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)
            code = Code.DISK_MISSING if gone else Code.DISK_READ_ERROR
            raise error(code, f"{path} can't be opened: {failure.strerror}", value=path) from failure
    try:
        return _source(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _source(path: str, descriptor: int) -> Source:
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        raise error(Code.SOURCE_INELIGIBLE, f"{path} is neither a file nor a block device", value=path)
    kind = BlockSource if stat.S_ISBLK(mode) else FileSource
    source = kind(path=path, descriptor=descriptor)
    if source.size_bytes == 0 or source.size_bytes % SECTOR:
        raise error(
            Code.SOURCE_INELIGIBLE,
            f"{path} has {source.size_bytes} bytes: a disk has a whole number of sectors of {SECTOR} bytes",
            value=path,
        )
    return source
