"""Names of files that outlive a power cut: fsync of a file doesn't say that its name is there, fsync(2) explains."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto stable storage.

    Raises:
        OSError: It can't be opened, or the storage failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
