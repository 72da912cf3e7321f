"""A volume of a host as the storage of replicas, and its files over SMB."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from dataclasses import dataclass

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.smb import SmbFiles
from bootpoint_worker.smb.path import join, parent

#: Seconds for which a file that is in use is tried to be deleted: a host lets go of disks some time after their VM is
#: gone. And seconds between two tries.
RELEASE_TIMEOUT, RELEASE_TICK = 120.0, 0.5


@dataclass(frozen=True, slots=True)
class Volume:
    r"""A volume, or a folder below one; see `snapshots.store.Store`.

    Attributes:
        files: The host's files.
        name: What jobs call it: ``D:``, or ``C:\ClusterStorage\Volume1``.
        path: Its root, without a backslash at the end.
        free: Asks how many bytes are free.
    """

    files: SmbFiles
    name: str
    path: str
    free: Callable[[], int]

    def get(self, path: str) -> bytes | None:
        """See `Store.get`."""
        return self.files.read(path)

    def put(self, path: str, data: bytes) -> None:
        """See `Store.put`."""
        self.files.write(path, data)

    def move_new(self, source: str, destination: str) -> bool:
        """See `Store.move_new`."""
        try:
            self.files.rename(source, destination)
        except BootpointError as problem:
            if problem.code is not Code.VM_NAME_TAKEN:
                raise
            return False
        return True

    def delete(self, path: str) -> None:
        """See `Store.delete`."""
        deadline = time.monotonic() + RELEASE_TIMEOUT
        while True:
            try:
                self._delete(path)
            except BootpointError as problem:
                if problem.code is not Code.BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(RELEASE_TICK)
            else:
                return

    def _delete(self, path: str) -> None:
        name = path.rpartition("\\")[2]
        # Of a drive's root the backslash is a part.
        above = self.files.list(f"{parent(path)}\\") or ()
        found = next((each for each in above if each.name == name), None)
        if found is not None and found.is_folder:
            self.files.delete_folder(path)
        elif found is not None:
            self.files.delete(path)

    def drop_empty(self, folder: str) -> bool:
        """Remove a folder in which there are no files, at any depth; tells whether it is gone."""
        entries = self.files.list(folder)
        if entries is None:
            return True
        if not all(entry.is_folder and self.drop_empty(join(folder, entry.name)) for entry in entries):
            return False
        self.files.delete_folder(folder)
        return True

    def list(self, directory: str, pattern: str = "*") -> list[str]:
        """See `Store.list`."""
        return [each.name for each in self.files.list(directory) or () if fnmatch.fnmatchcase(each.name, pattern)]

    def has(self, path: str) -> bool:
        """See `Store.has`."""
        return self.files.exists(path)

    def free_bytes(self) -> int:
        """See `Store.free_bytes`."""
        return self.free()
