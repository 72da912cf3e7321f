"""The files of a Windows host by name: folders made, listed, renamed, deleted; small files read and written whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.smb.fault import mapped
from bootpoint_worker.smb.file import ANSWER_TIMEOUT, CREATE, OPEN, REPLACE, SmbFile
from bootpoint_worker.smb.path import join, share_of
from bootpoint_worker.smb.session import SmbAccess, SmbSession
from bootpoint_worker.smb.wire import set_information

T = TypeVar("T")

#: Access to a file's name ([MS-SMB2] 2.2.13.1.1: DELETE, SYNCHRONIZE); others may do anything with it meanwhile.
_DELETE, _SHARE_ALL = 0x00110000, 0x7

#: What is appended to the name of a file while it is written.
UNFINISHED = ".new"


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in a folder.

    Attributes:
        name: Its name.
        is_folder: Whether it is a folder.
        size_bytes: Length; 0 for a folder.
        changed_at: When its bytes were changed last, by the host's clock.
    """

    name: str
    is_folder: bool
    size_bytes: int
    changed_at: datetime


class SmbFiles:
    r"""All files of a host, by their paths there (``D:\vm\a.vhdx``); not thread-safe.

    Every method raises what `smb.fault` lists. A connection that was cut since its last use is made again.

    Args:
        access: How the host is reached; nothing is sent before the first use.
    """

    def __init__(self, access: SmbAccess) -> None:
        self._session = SmbSession(access)
        self._host = access.host

    def open(self, path: str, *, writable: bool = False) -> SmbFile:
        """Open a file that is there; see `SmbFile`."""
        return self._again(lambda: SmbFile(self._session, path, writable=writable))

    def create(self, path: str) -> SmbFile:
        """Make an empty file, open for writing; its folder is there.

        Raises:
            RefusedError: ``vm_name_taken``: there is such a file.
        """
        return SmbFile(self._session, path, writable=True, disposition=CREATE)

    def read(self, path: str) -> bytes | None:
        """Read a small file; None where there is none."""

        def read() -> bytes:
            with closing(SmbFile(self._session, path, disposition=OPEN)) as file:
                return file.read_at(0, file.size())

        return self._unless_missing(lambda: self._again(read))

    def write(self, path: str, data: bytes) -> None:
        """Write a small file: after a cut in the midst, too, it is the old one or the new one, whole."""
        self._again(lambda: self._write(path, data))

    def put(self, path: str, data: bytes) -> None:
        """Make a small file, or write another content to one: quicker than `write`, and not safe from a cut."""

        def put() -> None:
            with closing(SmbFile(self._session, path, writable=True, disposition=REPLACE)) as file:
                file.write_at(0, data)
                file.settle()

        self._again(put)

    def exists(self, path: str) -> bool:
        """Tell whether there is a file or a folder."""
        import smbclient

        def look() -> bool:
            arguments = self._session.arguments(path)
            with mapped(self._host, f"look at {path}"):
                smbclient.stat(self._unc(path), **arguments)
            return True

        return bool(self._unless_missing(lambda: self._again(look)))

    def list(self, folder: str) -> list[Entry] | None:
        """Return what lies in a folder, by name; None where there is no such folder."""
        import smbclient

        def look() -> list[Entry]:
            arguments = self._session.arguments(folder)
            with mapped(self._host, f"list {folder}"), smbclient.scandir(self._unc(folder), **arguments) as found:
                return [
                    Entry(each.name, each.is_dir(), each.smb_info.end_of_file, each.smb_info.last_write_time)
                    for each in found
                ]

        found = self._unless_missing(lambda: self._again(look))
        return None if found is None else sorted(found, key=lambda entry: entry.name)

    def make_folder(self, folder: str) -> None:
        """Make a folder and those above it; one that is there is left as it is."""
        import smbclient

        def make() -> None:
            arguments = self._session.arguments(folder)
            with mapped(self._host, f"make the folder {folder}"):
                smbclient.makedirs(self._unc(folder), exist_ok=True, **arguments)

        self._again(make)

    def rename(self, path: str, to: str) -> None:
        """Give a file or a folder another name, or another place on the same volume; durable when this returns.

        What is renamed by a handle that writes through is flushed by NTFS with its metadata (Microsoft's reference of
        CreateFile, FILE_FLAG_WRITE_THROUGH); else a power cut of the host would bring the old name back.

        Raises:
            RefusedError: ``vm_name_taken``: there is something of that name.
            RetryableError: ``layer_lost``: there is nothing to rename.
        """
        from smbprotocol.file_info import FileRenameInformation
        from smbprotocol.open import CreateOptions, ImpersonationLevel, Open

        tree, session = self._session.tree(path), self._session.tree(path).session
        information = FileRenameInformation()
        information["file_name"] = share_of(to)[1]
        with mapped(self._host, f"rename {path} to {to}"):
            opened = Open(tree, share_of(path)[1])
            options = CreateOptions.FILE_WRITE_THROUGH
            opened.create(ImpersonationLevel.Impersonation, _DELETE, 0, _SHARE_ALL, OPEN, options)
            try:
                message = set_information(opened.file_id, information)
                request = session.connection.send(message, session.session_id, tree.tree_connect_id)
                session.connection.receive(request, timeout=ANSWER_TIMEOUT)
            finally:
                opened.close()

    def delete(self, path: str) -> None:
        """Delete a file; nothing is done where there is none."""
        import smbclient

        def delete() -> None:
            arguments = self._session.arguments(path)
            with mapped(self._host, f"delete {path}"):
                smbclient.remove(self._unc(path), **arguments)

        self._unless_missing(lambda: self._again(delete))

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that it holds; nothing is done where there is none."""
        import smbclient

        for entry in self.list(folder) or ():
            below = join(folder, entry.name)
            if entry.is_folder:
                self.delete_folder(below)
            else:
                self.delete(below)

        def delete() -> None:
            arguments = self._session.arguments(folder)
            with mapped(self._host, f"delete the folder {folder}"):
                smbclient.rmdir(self._unc(folder), **arguments)

        self._unless_missing(lambda: self._again(delete))

    def close(self) -> None:
        """End the connection; may be called twice, and never fails."""
        self._session.close()

    def _write(self, path: str, data: bytes) -> None:
        import smbclient

        beside = path + UNFINISHED
        with closing(SmbFile(self._session, beside, writable=True, disposition=REPLACE)) as file:
            file.write_at(0, data)
            file.flush()
        with mapped(self._host, f"replace {path}"):
            smbclient.replace(self._unc(beside), self._unc(path), **self._session.arguments(path))

    def _unc(self, path: str) -> str:
        share, below = share_of(path)
        return join(f"\\\\{self._session.access.address}\\{share}", below)

    def _again(self, function: Callable[[], T]) -> T:
        """Do something that may be done twice; once more on a new connection when the old one turns out to be cut."""
        old = self._session.connected
        try:
            return function()
        except BootpointError as problem:
            if problem.code is not Code.HOST_UNREACHABLE:
                raise
            self._session.cut()
            if not old:
                raise
        return function()

    def _unless_missing(self, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except BootpointError as problem:
            if problem.code is Code.LAYER_LOST:
                return None
            raise
