"""The Samba that stands for a host's administrative shares: what the drivers' tests rest on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from smbprotocol.connection import Connection
from smbprotocol.exceptions import AccessDenied, BadNetworkName, LogonFailure, SharingViolation, SMBResponseException
from smbprotocol.open import ShareAccess

from tests.service.samba import SambaServer
from tests.service.smb_client import connected, enter, entered, opened


@pytest.fixture
def connection(samba_server: SambaServer) -> Iterator[Connection]:
    with connected(samba_server) as made:
        yield made


def test_signed_files(samba_server: SambaServer, connection: Connection) -> None:
    """What is written through the share is a file in its directory, and every packet is signed."""
    tree = enter(samba_server, connection)
    file = opened(tree, "leaf.avhdx", ShareAccess.FILE_SHARE_READ)
    file.write(b"block", 7)
    file.close()
    assert (samba_server.shares["D$"] / "leaf.avhdx").read_bytes() == bytes(7) + b"block"
    assert tree.session.signing_required


def test_share_modes(samba_server: SambaServer, connection: Connection) -> None:
    tree = enter(samba_server, connection)
    opened(tree, "locked.avhdx", 0)
    with pytest.raises(SharingViolation):
        opened(tree, "LOCKED.avhdx", ShareAccess.FILE_SHARE_READ)


def test_a_wrong_password(samba_server: SambaServer, connection: Connection) -> None:
    with pytest.raises(LogonFailure):
        enter(samba_server, connection, password="wrong")


def test_a_share_that_goes(samba_server: SambaServer, connection: Connection) -> None:
    file = opened(enter(samba_server, connection), "going.avhdx", 0)
    samba_server.remove_share("D$")
    try:
        with pytest.raises(SMBResponseException):
            file.write(b"block", 0)
        with pytest.raises(BadNetworkName):
            enter(samba_server, connection)
    finally:
        samba_server.return_share("D$")
    assert enter(samba_server, connection).tree_connect_id


def test_an_administrator_who_is_filtered(samba_server: SambaServer, connection: Connection) -> None:
    samba_server.refuse()
    try:
        with pytest.raises(AccessDenied):
            enter(samba_server, connection)
    finally:
        samba_server.refuse(refused=False)
    assert enter(samba_server, connection).tree_connect_id


def test_cut_and_restart(samba_server: SambaServer, connection: Connection) -> None:
    enter(samba_server, connection)
    samba_server.cut()
    assert not samba_server.server.alive
    samba_server.start()
    with entered(samba_server) as tree:
        assert tree.tree_connect_id
