"""Commands on a Windows host by WinRM: a shell is made, runs one command, and is deleted.

pywinrm does the protocol ([MS-WSMV]). Each command has a connection of its own: Windows ends idle ones, and the keys of
messages that the login encrypts end with them. Over TLS the certificate is compared, in `targets.certificate`, before a
byte is sent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.certificate import CONNECT_TIMEOUT, pinned
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.hyperv.fault import mapped
from bootpoint_worker.targets.hyperv.way import DELEGATE_SETTING, by_kerberos, by_tls, endpoint

if TYPE_CHECKING:
    from winrm.protocol import Protocol

#: Most seconds after which the host answers a question for output with nothing, and is asked again.
POLL = 20

#: Seconds for any answer.
READ_TIMEOUT = 60

#: Code page of what a command writes: UTF-8.
CODE_PAGE = 65001


@dataclass(frozen=True, slots=True)
class Output:
    """What a command wrote, and its exit code."""

    stdout: str
    stderr: str
    exit_code: int


class Shell:
    """A shell on a host; `opened` makes it.

    Args:
        host: Name of the host.
        protocol: pywinrm's connection.
        shell_id: The shell's id there.
    """

    def __init__(self, host: str, protocol: Protocol, shell_id: str) -> None:
        self._host = host
        self._protocol = protocol
        self._id = shell_id

    def run(self, command: str, arguments: Sequence[str], *, timeout: float) -> Output:
        """Run a command.

        Args:
            command: The program.
            arguments: Its arguments, which hold nothing that cmd.exe reads anything into.
            timeout: Seconds for the command; the host ends it then.

        Raises:
            RetryableError: ``host_unreachable``: the connection was cut, and the command may go on; ``busy``: it has
                not ended in time.
        """
        from winrm.exceptions import WinRMOperationTimeoutError

        deadline = time.monotonic() + timeout
        with mapped(self._host):
            running = self._protocol.run_command(self._id, command, arguments)
            out, err = [], []
            while True:
                with contextlib.suppress(WinRMOperationTimeoutError):
                    stdout, stderr, exit_code, done = self._protocol.get_command_output_raw(self._id, running)
                    out.append(stdout)
                    err.append(stderr)
                    if done:
                        break
                if time.monotonic() > deadline:
                    self._protocol.cleanup_command(self._id, running)
                    text = f"host {self._host} has not ended {command} within {timeout:.0f} s"
                    raise error(Code.BUSY, text, host=self._host)
            return Output(_text(out), _text(err), exit_code)


@contextlib.contextmanager
def opened(access: HostAccess, *, timeout: float) -> Iterator[Shell]:
    """Make a shell on a host while a block lasts.

    Args:
        access: The host.
        timeout: Seconds of the longest command that will be run.

    Raises:
        RetryableError: ``host_unreachable``; ``busy``: it serves as many shells as it may.
        FatalError: ``host_auth``, ``host_permission``, ``host_key_changed``, ``tls_refused``, ``host_unsupported``.
    """
    if access.password is None and not by_kerberos(access):
        raise error(Code.CREDENTIALS_NOT_SAVED, f"host {access.name} has no password", host=access.name)
    with mapped(access.name):
        protocol = _connect(access, min(POLL, max(1, round(timeout))))
    try:
        with mapped(access.name):
            shell_id = protocol.open_shell(noprofile=True, codepage=CODE_PAGE)
        try:
            yield Shell(access.name, protocol, shell_id)
        finally:
            # Its command ends with it. A shell that can't be deleted ends by itself when it was idle for long enough.
            with contextlib.suppress(BootpointError), mapped(access.name):
                protocol.close_shell(shell_id, close_session=False)
    finally:
        protocol.transport.close_session()


def _text(pieces: list[bytes]) -> str:
    return b"".join(pieces).decode(errors="replace").strip()


def _connect(access: HostAccess, poll: int) -> Protocol:
    from winrm.protocol import Protocol

    tls = by_tls(access.port, access.settings)
    protocol = Protocol(
        endpoint(access),
        transport="kerberos" if by_kerberos(access) else "ntlm",
        username=access.user,
        password=access.password,
        # Not asked of authorities, but of the fingerprint recorded: see `_pin`.
        ca_trust_path="",
        message_encryption="never" if tls else "always",
        operation_timeout_sec=poll,
        read_timeout_sec=READ_TIMEOUT,
        # Kerberos forwards a ticket that allows it, and no other; NTLM has none.
        kerberos_delegation=bool(access.settings.get(DELEGATE_SETTING)),
        proxy=None,
    )
    # requests takes both: who drops what is sent to the port is found out sooner than a host that is slow to answer.
    protocol.transport.read_timeout_sec = (CONNECT_TIMEOUT, READ_TIMEOUT)  # type: ignore[assignment]
    if tls:
        _pin(access, protocol)
    return protocol


def _pin(access: HostAccess, protocol: Protocol) -> None:
    """Let a session accept nothing but the certificate recorded."""
    from requests.adapters import HTTPAdapter

    context = pinned(access, dated=True)

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
            # urllib3 compares once more, and so knows that the connection was verified.
            super().init_poolmanager(
                *arguments, **more, ssl_context=context, assert_fingerprint=access.fingerprint, assert_hostname=False
            )

    session = protocol.transport.build_session()
    session.verify = False
    session.mount("https://", Adapter())
