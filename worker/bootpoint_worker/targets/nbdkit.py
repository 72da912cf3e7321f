"""A server of one disk: an nbdkit of this machine with a plugin, on a unix socket in a directory that is ours alone.

What it must not show, such as a password, goes by a file descriptor and never on a command line. Sources: nbdkit(1),
nbdkit-exitlast-filter(1).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.nbdclient import CONNECT_TIMEOUT, Client

if TYPE_CHECKING:
    import nbd

#: Seconds within which a started server has to listen: it may load a large library first.
START_TIMEOUT = 30.0

#: Seconds within which a server that was told to end has to be gone.
END_TIMEOUT = 10.0


@dataclass(slots=True)
class Server:
    """A running nbdkit, with a directory of its own.

    Attributes:
        host: Name of the host.
        process: The process.
        directory: Its socket, its log, and what else is kept of it.
    """

    host: str
    process: subprocess.Popen[bytes]
    directory: Path
    _ended: bool = field(default=False, repr=False)

    @property
    def socket(self) -> Path:
        """Its listening socket."""
        return self.directory / "socket"

    @property
    def uri(self) -> str:
        """As the NBD URI specification and qemu have it."""
        return f"nbd+unix:///?socket={self.socket}"

    def wait(self) -> None:
        """Wait until it listens.

        Raises:
            BootpointError: It has ended, or doesn't; see `problem`.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.problem()
            time.sleep(0.02)

    def begin(self, handle: nbd.NBD) -> None:
        """Let a handle connect.

        Raises:
            BootpointError: It has ended; see `problem`.
        """
        if self.process.poll() is not None:
            raise self.problem()
        handle.aio_connect_unix(str(self.socket))

    def refusal(self, _exc: nbd.Error) -> BootpointError | None:
        """Return what it said when it opened the disk; None while nobody has listened yet."""
        return self.problem() if self.said() else None

    def said(self) -> str:
        """Return the errors that nbdkit has logged."""
        lines = (self.directory / "log").read_text(errors="replace").splitlines()
        return "; ".join(line.partition("error: ")[2] for line in lines if "error: " in line)

    def problem(self, what: str = "does not open a disk") -> BootpointError:
        """Return what its log says as an error of ours.

        Args:
            what: What the host does, as a sentence goes on after its name.
        """
        return self.explain(self.said() or f"nbdkit ended with {self.process.poll()} and no word", what)

    def explain(self, said: str, what: str) -> BootpointError:
        """Return what nbdkit and its plugin said as an error of ours; plugins have words of their own.

        Args:
            said: Their words.
            what: As for `problem`.
        """
        return error(Code.TARGET_WRITE_ERROR, f"host {self.host} {what}: {said}", host=self.host)

    def end(self) -> None:
        """End it, and wait until it is gone; may be called twice."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It ends by itself when its connection does, and closes the disk properly.
            self.process.wait(END_TIMEOUT)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def spawn(
    words: list[str],
    directory: Path,
    secret: int,
    *,
    lasting: bool,
    missing: BootpointError,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start nbdkit; it opens the disk with its first connection.

    Args:
        words: Options, filters, the plugin and its settings.
        directory: Where its socket and its log go; it is removed when there is no nbdkit.
        secret: A descriptor that it may read.
        lasting: It serves several connections, one after the other, until it is ended; else it ends with its first.
        missing: What is raised when there is no nbdkit.
        environment: Its environment; None for ours.
    """
    ending = [] if lasting else ["--filter=exitlast"]
    command = ["nbdkit", "--foreground", "--unix", str(directory / "socket"), *ending, *words]
    with (directory / "log").open("wb") as log:
        try:
            # A session of its own: what ends a worker on a terminal must not end its servers before it.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(secret,),
                start_new_session=True,
                env=environment,
            )
        except FileNotFoundError as exc:
            shutil.rmtree(directory, ignore_errors=True)
            raise missing from exc


def connected(server: Server, contexts: tuple[str, ...] = (), timeout: float = CONNECT_TIMEOUT) -> Client:
    """Connect to a server; one that can't open its disk is ended.

    Raises:
        BootpointError: What it said; see `Server.problem`.
    """
    try:
        return Client(
            host=server.host,
            begin=server.begin,
            server="nbdkit",
            contexts=contexts,
            timeout=timeout,
            refusal=server.refusal,
        )
    except BaseException:
        server.process.terminate()
        server.end()
        raise


@contextlib.contextmanager
def secret(text: str) -> Iterator[int]:
    """Give a descriptor that a text can be read from, once."""
    reading, writing = os.pipe()
    try:
        os.write(writing, text.encode())
        os.close(writing)
        yield reading
    finally:
        os.close(reading)
