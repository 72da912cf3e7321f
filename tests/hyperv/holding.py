"""Files that the host has open, as its VMs and merges have: by share modes of the same smbd that clients come through.

A running VM has its topmost disks open for itself alone, and those below for reading; a merge has all that it touches
for itself. Who opens one of them over SMB gets STATUS_SHARING_VIOLATION.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from smbprotocol.connection import Connection
from smbprotocol.exceptions import SharingViolation, SMBConnectionClosed, SMBException
from smbprotocol.open import CreateDisposition, FilePipePrinterAccessMask, ImpersonationLevel, Open, ShareAccess
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from tests.service.samba import SambaServer

#: The share through which the host itself opens files: all of them.
OWN_SHARE = "host$"


class Sharing(Enum):
    """How the host opens a file: the rights that it wants, and what it lets others have meanwhile."""

    ALONE = (FilePipePrinterAccessMask.GENERIC_READ | FilePipePrinterAccessMask.GENERIC_WRITE, 0)
    READING = (FilePipePrinterAccessMask.GENERIC_READ, ShareAccess.FILE_SHARE_READ)


class InUseError(Exception):
    """Somebody else has a file open."""


#: An open file.
Hold: TypeAlias = Open


class Holds:
    """The host's open files.

    Args:
        server: The host's smbd, which has `OWN_SHARE`.
        root: The directory of that share.
    """

    def __init__(self, server: SambaServer, root: Path) -> None:
        self._server = server
        self._root = root
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._tree: TreeConnect | None = None

    def take(self, path: Path, sharing: Sharing = Sharing.ALONE) -> Hold:
        """Open a file.

        Raises:
            InUseError: Somebody else has it open otherwise.
        """
        name = str(path.relative_to(self._root)).replace("/", "\\")
        with self._lock:
            try:
                return self._open(name, sharing)
            except SharingViolation as exc:
                raise InUseError(str(path)) from exc
            except (SMBConnectionClosed, OSError):
                # The server was started anew.
                self._leave()
                return self._open(name, sharing)

    def _open(self, name: str, sharing: Sharing) -> Hold:
        rights, shared = sharing.value
        opened = Open(self._entered(), name)
        opened.create(ImpersonationLevel.Impersonation, rights, 0, shared, CreateDisposition.FILE_OPEN, 0)
        return opened

    def release(self, hold: Hold) -> None:
        """Close one; it may have ended with the server."""
        with self._lock, contextlib.suppress(SMBException, OSError):
            hold.close()

    def probe(self, path: Path, sharing: Sharing = Sharing.ALONE) -> None:
        """Check that a file could be opened.

        Raises:
            InUseError: It can't.
        """
        self.release(self.take(path, sharing))

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SMBException, OSError):
                self._connection.disconnect(close=False)
        self._connection = self._tree = None

    def _entered(self) -> TreeConnect:
        if self._tree is None:
            self._connection = Connection(uuid.uuid4(), self._server.address, self._server.port)
            self._connection.connect(timeout=30)
            session = Session(self._connection, self._server.username, self._server.password)
            session.connect()
            self._tree = TreeConnect(session, rf"\\{self._server.address}\{OWN_SHARE}")
            self._tree.connect()
        return self._tree
