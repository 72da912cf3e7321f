"""A KVM host over one SSH connection: commands, and its unix sockets through ``nc -U``.

One credential serves control and data: no port but SSH's is opened on the host.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm.fingerprint import KEY_TYPES, negotiate, shown
from bootpoint_worker.targets.kvm.session import COMMAND_TIMEOUT, DIAL_TIMEOUT, Result, unreachable
from bootpoint_worker.targets.kvm.tunnel import join

if TYPE_CHECKING:
    from paramiko import Channel, PKey, Transport

#: Seconds between keepalives; a NAT on the way forgets silent connections after a few minutes.
KEEPALIVE = 15

#: Seconds for the login.
AUTH_TIMEOUT = 30.0

#: Runs on the host to reach a unix socket. OpenBSD's nc needs -N to pass on the end of the stream, without
#: which it and the server would stay behind when a worker dies; ncat does it by itself and knows no -N.
DIAL = 'if nc -h 2>&1 | grep -q -e " -N"; then exec nc -N -U "$1"; else exec nc -U "$1"; fi'

#: Printed before a script begins. A login shell may print what its start-up files say; that ends here.
MARK = b"\n--bootpoint--\n"


class SshSession:
    """One kept SSH connection to a host, checked before each use and opened again when it broke.

    Args:
        access: Address, port, user, key or password, and the fingerprint of the host's key.
    """

    def __init__(self, *, access: HostAccess) -> None:
        self.host = access.name
        self._access = access
        self._transport: Transport | None = None

    def run(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = COMMAND_TIMEOUT) -> Result:
        """Run the script in the account's shell; see `Session.run`."""
        deadline = time.monotonic() + timeout
        with self._mapped():
            channel = self._channel()
            try:
                channel.settimeout(timeout)
                channel.exec_command(_command(script, arguments))
                # A script that ends early doesn't read its input; how it ended says why.
                with contextlib.suppress(OSError):
                    channel.sendall(stdin)
                    channel.shutdown_write()
                stdout = b"".join(_received(channel.recv, channel, deadline)).partition(MARK)[2]
                stderr = b"".join(_received(channel.recv_stderr, channel, deadline))
                if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"a command did not end within {timeout:.0f} s")
                exit_code = channel.recv_exit_status()
            finally:
                channel.close()
        if exit_code < 0:
            raise unreachable(self.host, "the connection ended in the midst of a command")
        return Result(exit_code, stdout, stderr.decode(errors="replace"))

    def dial(self, path: str) -> socket.socket:
        """Reach a unix socket of the host; see `Session.dial`."""
        return self.attach(DIAL, path)

    def attach(self, script: str, *arguments: str) -> socket.socket:
        """Start the script in the account's shell; see `Session.attach`."""
        with self._mapped():
            channel = self._channel()
            channel.settimeout(DIAL_TIMEOUT)
            channel.exec_command(_command(script, arguments))
            first = _after_mark(channel)
            channel.settimeout(None)
        near, far = socket.socketpair()
        far.sendall(first)
        join(far, channel)
        return near

    def close(self) -> None:
        """End the connection; see `Session.close`."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _channel(self) -> Channel:
        if self._transport is None or not self._transport.is_active():
            self.close()
            self._transport = self._login()
        return self._transport.open_session(timeout=DIAL_TIMEOUT)

    def _login(self) -> Transport:
        transport = self._trusted()
        try:
            self._authenticate(transport)
        except BaseException:
            transport.close()
            raise
        transport.set_keepalive(KEEPALIVE)
        return transport

    def _trusted(self) -> Transport:
        """Connect, and compare the host's key with the one recorded; it may have been recorded from any of them."""
        access = self._access
        seen: list[str] = []
        for key_types in (KEY_TYPES, *((kind,) for kind in KEY_TYPES)):
            try:
                transport = negotiate(self.host, access.address, access.port, key_types)
            except BootpointError:
                if not seen:
                    raise
                continue  # the host has no key of this kind
            fingerprint = shown(transport)
            if fingerprint == access.fingerprint:
                return transport
            transport.close()
            seen.append(fingerprint)
            if access.fingerprint is None:
                break
        recorded = access.fingerprint or "none yet"
        raise error(
            Code.HOST_KEY_CHANGED,
            f"host {self.host} shows the key {seen[0]}; recorded is {recorded}",
            key="fingerprint",
            value=seen[0],
            host=self.host,
        )

    def _authenticate(self, transport: Transport) -> None:
        import paramiko

        access = self._access
        transport.auth_timeout = AUTH_TIMEOUT
        try:
            if access.ssh_key is not None:
                transport.auth_publickey(access.user, _private_key(access))
            elif access.password is not None:
                transport.auth_password(access.user, access.password)
            else:
                raise error(
                    Code.CREDENTIALS_NOT_SAVED, f"host {self.host} has neither key nor password", host=self.host
                )
        except paramiko.AuthenticationException as exc:
            raise error(
                Code.HOST_AUTH, f"host {self.host} refuses the login of {access.user}: {exc}", host=self.host
            ) from exc
        except (OSError, EOFError, paramiko.SSHException) as exc:
            raise unreachable(self.host, exc) from exc

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn what paramiko raises into our errors, and drop a connection that broke."""
        import paramiko

        try:
            yield
        except (OSError, EOFError, paramiko.SSHException) as exc:
            self.close()
            raise unreachable(self.host, exc or "no answer in time") from exc


def _command(script: str, arguments: Sequence[str]) -> str:
    marked = f"printf '%s' {shlex.quote(MARK.decode())}\n{script}"
    return " ".join(["exec", "/bin/sh", "-c", shlex.quote(marked), "bootpoint", *map(shlex.quote, arguments)])


def _after_mark(channel: Channel) -> bytes:
    """Wait until the script begins, and return what came after the mark."""
    seen = b""
    while MARK not in seen:
        piece = channel.recv(4096)
        if not piece:
            raise EOFError("the host's shell ended before the command began")
        seen += piece
    return seen.partition(MARK)[2]


def _received(receive: object, channel: Channel, deadline: float) -> Iterator[bytes]:
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("a command did not end in time")
        channel.settimeout(left)
        piece: bytes = receive(1 << 18)  # type: ignore[operator]  # paramiko's methods have no types
        if not piece:
            return
        yield piece


def _private_key(access: HostAccess) -> PKey:
    """Read the key text, whatever kind of key it is."""
    import paramiko

    why: Exception | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(access.ssh_key or ""), password=access.password)
        except (paramiko.SSHException, ValueError, IndexError) as exc:
            why = exc
    raise error(
        Code.HOST_AUTH, f"the saved key of host {access.name} can't be read: {why}", key="ssh_key", host=access.name
    ) from why
