"""Running commands on a KVM host, and reaching its unix sockets: on this machine, or over SSH.

Host commands are POSIX sh scripts of ours (`script`). Values travel as positional parameters and on standard
input, and are never pasted into a script.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from bootpoint_common.errors import Code, error
from bootpoint_common.units import MiB
from bootpoint_worker.targets.host import unreachable as unreachable  # noqa: PLC0414 - the driver's modules take it from here

#: Seconds that a short host command may take. A loaded host with a slow disk needs some to sync a file.
COMMAND_TIMEOUT = 120.0

#: Seconds within which a connection to a socket on the host must stand.
DIAL_TIMEOUT = 15.0

#: Bytes that a local connection to a server takes without anybody waiting: as much as a writer has in flight.
SEND_BUFFER = 8 * MiB

#: The option's number in Linux's <asm-generic/socket.h>; Python has no name for it.
_SO_SNDBUFFORCE = 32

#: What a command's standard error says -> what that is.
_SYMPTOMS = (
    ("No space left on device", Code.HOST_FULL),
    ("Disk quota exceeded", Code.HOST_FULL),
    ("Permission denied", Code.HOST_PERMISSION),
    ("Operation not permitted", Code.HOST_PERMISSION),
    ("Read-only file system", Code.HOST_PERMISSION),
    ('Failed to get "', Code.BUSY),
    ('Failed to get shared "', Code.BUSY),
    ("not found", Code.HOST_UNSUPPORTED),
)


@dataclass(frozen=True, slots=True)
class Result:
    """How a host command ended.

    Attributes:
        exit_code: Its exit code.
        stdout: What it wrote.
        stderr: What it complained about.
    """

    exit_code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="surrogateescape")


class Session(Protocol):
    """A way to a host, kept open between calls and opened again when it broke.

    Attributes:
        host: The host's name, for messages.
    """

    host: str

    def run(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = COMMAND_TIMEOUT) -> Result:
        """Run a sh script on the host with positional parameters, and return how it ended.

        Raises:
            RetryableError: ``host_unreachable``, also when it doesn't end within ``timeout`` seconds.
            FatalError: ``host_auth``.
            RefusedError: ``host_key_changed``.
        """

    def attach(self, script: str, *arguments: str) -> socket.socket:
        """Start a script whose standard input and output are the connection that is returned.

        Raises:
            RetryableError: ``host_unreachable``.
        """

    def dial(self, path: str) -> socket.socket:
        """Connect to a unix socket of the host; the connection may end at once if nobody listens there.

        Raises:
            OSError: Nobody listens.
            RetryableError: ``host_unreachable``.
        """

    def close(self) -> None:
        """End the session; may be called twice."""


def check(session: Session, result: Result, what: str) -> Result:
    """Return the result of a command that succeeded.

    Args:
        session: Where it ran.
        result: How it ended.
        what: What it was to do, to be read after "could not".

    Raises:
        BootpointError: It failed; the code follows from what it said.
    """
    if result.exit_code == 0:
        return result
    said = result.stderr.strip() or result.text.strip() or f"exit code {result.exit_code}"
    code = next((code for symptom, code in _SYMPTOMS if symptom in said), Code.TARGET_WRITE_ERROR)
    raise error(code, f"host {session.host} could not {what}: {said[-1000:]}", host=session.host)


class LocalSession:
    """The machine that the worker runs on.

    Args:
        host: The host's name.
    """

    def __init__(self, *, host: str) -> None:
        self.host = host

    def run(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = COMMAND_TIMEOUT) -> Result:
        """Run the script in a process group of its own; see `Session.run`."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "bootpoint", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise unreachable(self.host, f"a command did not end within {timeout:.0f} s") from expired
        return Result(process.returncode, stdout, stderr.decode(errors="replace"))

    def attach(self, script: str, *arguments: str) -> socket.socket:
        """Start the script with one end of a socket pair; see `Session.attach`."""
        near, far = socket.socketpair()
        with far, closed_on_failure(near):
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, "bootpoint", *arguments],
                stdin=far.fileno(),
                stdout=far.fileno(),
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        threading.Thread(target=process.wait, name="attached", daemon=True).start()
        return near

    def dial(self, path: str) -> socket.socket:
        """Connect to a unix socket of this machine; see `Session.dial`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closed_on_failure(connection):
            # libnbd sends only as much as fits while nobody waits in it: with room for what is in flight, the server
            # writes while the next bundle is decrypted and inflated. The plain option is limited by the system.
            with contextlib.suppress(PermissionError):
                connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER)
            connection.settimeout(DIAL_TIMEOUT)
            connection.connect(path)
            connection.settimeout(None)
        return connection

    def close(self) -> None:
        """Nothing is kept."""


@contextlib.contextmanager
def closed_on_failure(connection: socket.socket) -> Iterator[None]:
    """Close a socket when the block raises."""
    try:
        yield
    except BaseException:
        connection.close()
        raise
