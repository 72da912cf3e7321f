"""One SMB 3 connection to a Windows host, signed or encrypted, and its administrative shares.

Everything that is sent is signed at the least. smbprotocol does the protocol; what it leaves open is done here: a host
that vanished is noticed within two minutes, and a connection that was cut is made again at the next use.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.smb.answer import watch
from bootpoint_worker.smb.fault import FIREWALL_HINT, mapped
from bootpoint_worker.smb.path import share_of
from bootpoint_worker.targets.host import unreachable

#: TCP port of SMB.
PORT = 445

#: Seconds for the TCP connection, and again for the negotiation.
CONNECT_TIMEOUT = 15.0

#: Seconds of silence after which the host is asked for an echo, and again until the connection counts as cut. Windows
#: itself ends one that was silent for about 15 minutes.
SILENCE = 60

#: Milliseconds that what was sent may stay without a receipt of TCP.
UNACKNOWLEDGED = 60_000

#: Oldest dialect that is spoken, SMB 3.0: Windows Server 2012. Older ones can't encrypt, and sign with SHA-256 only.
OLDEST_DIALECT = 0x0300

#: Dialects that are too old -> the Windows whose newest they are ([MS-SMB2] 1.7, appendix).
OLD_WINDOWS = {0x0202: "Windows Server 2008", 0x0210: "Windows Server 2008 R2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmbAccess:
    r"""How the files of a host are reached.

    Attributes:
        host: Name of the host, for messages.
        address: DNS name or address.
        user: Account: ``Administrator``, ``DOMAIN\user`` or ``user@domain``.
        password: Its password; not used by Kerberos.
        port: TCP port.
        encrypted: Whether bytes are encrypted on the way, and not only signed.
        kerberos: Whether the login is by the Kerberos ticket that this process finds, else by NTLM.
    """

    host: str
    address: str
    user: str
    password: str | None = field(default=None, repr=False)
    port: int = PORT
    encrypted: bool = True
    kerberos: bool = False


class SmbSession:
    """A connection that is made at the first use, and again when it was cut; not thread-safe.

    Args:
        access: How the host is reached.
    """

    def __init__(self, access: SmbAccess) -> None:
        self.access = access
        self._cache: dict[str, Any] = {}

    def tree(self, path: str) -> Any:
        """Return smbprotocol's tree of the share that a path of the host lies on.

        Raises:
            RetryableError: ``host_unreachable``.
            FatalError: ``host_auth``, ``host_permission``, ``host_unsupported``.
        """
        from smbprotocol.tree import TreeConnect

        share = f"\\\\{self.access.address}\\{share_of(path)[0]}"
        session = self._session()
        with mapped(self.access.host, f"use the share {share}"):
            for known in session.tree_connect_table.values():
                if known.share_name == share:
                    return known
            tree = TreeConnect(session, share)
            tree.connect()
            return tree

    def arguments(self, path: str) -> dict[str, Any]:
        """Return what smbclient's functions need to use this connection for a path."""
        self.tree(path)
        return {**self._credentials, "connection_cache": self._cache}

    @property
    def connected(self) -> bool:
        """Whether there is a connection that isn't known to be cut."""
        return any(connection.transport.connected for connection in self._cache.values())

    def cut(self) -> None:
        """Forget a connection that failed: the next use makes another."""
        connections, self._cache = list(self._cache.values()), {}
        for connection in connections:
            # Nobody is told: who would listen has gone.
            with contextlib.suppress(OSError):
                connection.disconnect(close=False)

    def close(self) -> None:
        """End the session; may be called twice, and never fails."""
        with contextlib.suppress(BootpointError), mapped(self.access.host, "end the session"):
            for connection in self._cache.values():
                connection.disconnect(timeout=CONNECT_TIMEOUT)
        self.cut()

    @property
    def _credentials(self) -> dict[str, Any]:
        access = self.access
        return {
            "username": access.user,
            # With a password spnego would get a ticket of its own, and leave the one that is there alone.
            "password": None if access.kerberos else access.password,
            "port": access.port,
            "auth_protocol": "kerberos" if access.kerberos else "ntlm",
            "require_signing": True,
        }

    def _session(self) -> Any:
        """Return smbprotocol's session, logged in."""
        access = self.access
        if access.password is None and not access.kerberos:
            raise error(Code.CREDENTIALS_NOT_SAVED, f"host {access.host} has no password", host=access.host)
        if not self.connected:
            self.cut()
            with mapped(access.host, "connect for files"):
                # That is the key under which smbclient's functions look for one.
                self._cache[f"{access.address.lower()}:{access.port}"] = self._connect()
        with mapped(access.host, "log in for files"):
            import smbclient

            try:
                return smbclient.register_session(
                    access.address, **self._credentials, encrypt=access.encrypted, connection_cache=self._cache
                )
            except BaseException:
                self.cut()
                raise

    def _connect(self) -> Any:
        """Make a connection, watch over it, and refuse a host that is too old before it is told who asks."""
        from smbprotocol.connection import Connection

        access = self.access
        connection = Connection(uuid4(), access.address, access.port, require_signing=True)
        try:
            connection.connect(timeout=CONNECT_TIMEOUT)
        except ValueError as exc:
            # That is how it says that no connection came about.
            problem = unreachable(access.host, exc)
            problem.hint = FIREWALL_HINT
            raise problem from exc
        if connection.dialect < OLDEST_DIALECT:
            connection.disconnect(close=False)
            name = OLD_WINDOWS.get(connection.dialect, "an older Windows")
            raise error(
                Code.HOST_UNSUPPORTED,
                f"host {access.host} speaks SMB 2 only, as {name} does",
                host=access.host,
                hint="bootpoint needs Windows Server 2012 or later; Get-SmbServerConfiguration shows what it speaks",
            )
        watch(connection)
        # smbprotocol has no setting for either; without them a host that lost its power is waited for for ever.
        connection._receive_timeout = SILENCE  # noqa: SLF001
        connection.transport._sock.setsockopt(  # noqa: SLF001
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED
        )
        return connection
