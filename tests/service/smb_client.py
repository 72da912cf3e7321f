"""A client of a share, for tests of what stands on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from smbprotocol.connection import Connection
from smbprotocol.open import CreateDisposition, FilePipePrinterAccessMask, ImpersonationLevel, Open
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from tests.service.samba import SambaServer


@contextmanager
def connected(server: SambaServer) -> Iterator[Connection]:
    """Have a connection."""
    made = Connection(uuid.uuid4(), server.address, server.port, require_signing=True)
    made.connect(timeout=10)
    try:
        yield made
    finally:
        made.disconnect(close=False)


def enter(server: SambaServer, connection: Connection, share: str = "D$", password: str = "") -> TreeConnect:
    """Log in, and enter a share."""
    session = Session(connection, server.username, password or server.password, require_encryption=False)
    session.connect()
    tree = TreeConnect(session, rf"\\{server.address}\{share}")
    tree.connect()
    return tree


@contextmanager
def entered(server: SambaServer, share: str = "D$") -> Iterator[TreeConnect]:
    """Have a share that was entered."""
    with connected(server) as connection:
        yield enter(server, connection, share)


def opened(tree: TreeConnect, name: str, share: int) -> Open:
    """Open a file for reading and writing, and make it if it isn't there."""
    file = Open(tree, name)
    rights = FilePipePrinterAccessMask.GENERIC_READ | FilePipePrinterAccessMask.GENERIC_WRITE
    file.create(ImpersonationLevel.Impersonation, rights, 0, share, CreateDisposition.FILE_OPEN_IF, 0)
    return file
