"""Servers of disks: nbdkit with its vddk plugin, one for each disk that is read or written, on this machine.

::

    libnbd ──unix socket──► nbdkit (blocksize filter) ──► vddk plugin ──► libvixDiskLib ──NBDSSL──► the host

Each connection of NBD is a new opening of the disk, and a disk is opened for writing once: so one connection a disk,
with several requests in flight. The server ends with its connection, and so with this process. The password goes by a
file descriptor, never on a command line. Sources: nbdkit-vddk-plugin(1), nbdkit-blocksize-filter(1),
nbdkit-exitlast-filter(1); sizes and limits: VDDK Programming Guide, "Best Practices for NBDSSL transport".
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.esxi import fence
from bootpoint_worker.targets.esxi.means import LIBDIR, LIBDIR_SETTING, PLUGIN_SETTING
from bootpoint_worker.targets.nbdclient import Client

if TYPE_CHECKING:
    import nbd

    from bootpoint_worker.targets.esxi.host import Host

#: Transports in the order of preference: encrypted, else plain; the others of VDDK need a VM, or a SAN.
TRANSPORTS = "nbdssl:nbd"

#: Bytes of the smallest and the largest request that VDDK is given: sectors, and NFC's buffers.
_BLOCKSIZE = ("minblock=512", "maxdata=2M")

#: Seconds within which a started server has to listen: it loads a large library first.
START_TIMEOUT = 30.0

#: Seconds within which a disk must be open: the library logs in, and asks the host for a ticket.
CONNECT_TIMEOUT = 90.0

#: Seconds within which a server that was told to end has to be gone.
END_TIMEOUT = 10.0

#: Seconds for which a disk that is locked is tried again: a host lets go of it some time after its last user.
LOCK_TIMEOUT = 10.0

#: What the library says -> what it means. Words of vixDiskLib's errors: VDDK Programming Guide, "Error codes". That a
#: disk is lost only one of its calls says: on its way it may miss files of this machine, and warn of them.
_MEANINGS = (
    (Code.BUSY, re.compile(r"lock|in use|\b16392\b", re.IGNORECASE)),
    (
        Code.LAYER_LOST,
        re.compile(
            r"VixDiskLib_\w+: [^;]*(not found|cannot find|does not exist|no such|one of the files)", re.IGNORECASE
        ),
    ),
    (Code.HOST_AUTH, re.compile(r"password|login|user ?name|credential|authenticat", re.IGNORECASE)),
    (Code.HOST_PERMISSION, re.compile(r"permission|access rights", re.IGNORECASE)),
    (Code.HOST_KEY_CHANGED, re.compile(r"thumbprint|certificate", re.IGNORECASE)),
    (Code.HOST_FULL, re.compile(r"no space|disk (is )?full|insufficient space", re.IGNORECASE)),
    (Code.STANDBY_RUNNING, re.compile(r"powered on|power state", re.IGNORECASE)),
    (Code.HOST_UNREACHABLE, re.compile(r"connect|network|timed? ?out", re.IGNORECASE)),
)

#: What is missing on this machine, as nbdkit says it.
_MISSING = re.compile(r"cannot open plugin|libvixDiskLib|^realpath: |plugin.*(not found|dlopen)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that is to be served.

    Attributes:
        moref: The VM's id.
        file: Datastore path of the delta or base.
        snapshot: Id of the snapshot that the file belongs to; None for the VM's leaf.
    """

    moref: str
    file: str
    snapshot: str | None = None


@dataclass(slots=True)
class Server:
    """A running nbdkit, with a directory of its own.

    Attributes:
        host: Name of the host.
        process: The process.
        directory: Its socket, its log, and the file that says who it is.
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
        """Return what the library said when it opened the disk; None while nobody has listened yet."""
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
        said = self.said() or f"nbdkit ended with {self.process.poll()} and no word"
        hint = None
        if _MISSING.search(said):
            code = Code.HOST_UNSUPPORTED
            hint = "install nbdkit, its vddk plugin and VMware's VDDK on the worker's machine: docs/esxi.md"
        else:
            code = next((code for code, words in _MEANINGS if words.search(said)), Code.TARGET_WRITE_ERROR)
        return error(code, f"host {self.host} {what}: {said}", hint=hint, host=self.host)

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


def serve(host: Host, disk: Disk, *, writer: int | None = None, lasting: bool = False) -> Server:
    """Start a server of a disk; it opens the disk with its first connection.

    Args:
        host: The host.
        disk: Which disk.
        writer: Number of the claim that writes; None for reading.
        lasting: It serves several connections, one after the other, until it is ended.

    Raises:
        FatalError: ``host_unsupported``: there is no nbdkit.
    """
    root = fence.place_of(host, disk.file if writer is not None else None)
    directory = Path(tempfile.mkdtemp(prefix=f"{writer or 0}-", dir=root))
    with (directory / "log").open("wb") as log, _secret(host.access.password or "") as secret:
        command = _command(host, disk, directory, secret, read_only=writer is None, lasting=lasting)
        try:
            # A session of its own: what ends a worker on a terminal must not end its servers before it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(secret,), start_new_session=True
            )
        except FileNotFoundError as exc:
            shutil.rmtree(directory, ignore_errors=True)
            raise error(
                Code.HOST_UNSUPPORTED,
                "this worker has no nbdkit, by which disks of ESXi are read and written",
                hint="install nbdkit, its vddk plugin and VMware's VDDK on the worker's machine: docs/esxi.md",
                host=host.name,
            ) from exc
    fence.enlist(directory, process.pid)
    return Server(host.name, process, directory)


def connected(server: Server, contexts: tuple[str, ...] = ()) -> Client:
    """Connect to a server; one that can't open its disk is ended.

    Raises:
        BootpointError: What the library said; see `Server.problem`.
    """
    try:
        return Client(
            host=server.host,
            begin=server.begin,
            server="nbdkit",
            contexts=contexts,
            timeout=CONNECT_TIMEOUT,
            refusal=server.refusal,
        )
    except BaseException:
        server.process.terminate()
        server.end()
        raise


def opened(
    host: Host, disk: Disk, *, writer: int | None = None, contexts: tuple[str, ...] = ()
) -> tuple[Server, Client]:
    """Start a server and connect to it, again for a while when the disk is locked.

    Raises:
        RetryableError: ``busy``: it stays locked.
        BootpointError: See `Server.problem`.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        server = serve(host, disk, writer=writer)
        try:
            return server, connected(server, contexts)
        except BootpointError as exc:
            if exc.code is not Code.BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _command(host: Host, disk: Disk, directory: Path, secret: int, *, read_only: bool, lasting: bool) -> list[str]:
    access = host.access
    words = ["nbdkit", "--foreground", "--unix", str(directory / "socket"), "--filter=blocksize"]
    words += [] if lasting else ["--filter=exitlast"]
    words += ["--readonly"] if read_only else []
    words += [
        str(access.settings.get(PLUGIN_SETTING) or "vddk"),
        f"libdir={access.settings.get(LIBDIR_SETTING) or LIBDIR}",
        f"server={access.address}",
        f"port={access.port}",
        f"user={access.user}",
        f"password=-{secret}",
        f"thumbprint={host.client.thumbprint}",
        f"vm=moref={disk.moref}",
        f"transports={TRANSPORTS}",
        f"file={disk.file}",
    ]
    words += [f"snapshot={disk.snapshot}"] if disk.snapshot else []
    return [*words, *_BLOCKSIZE]


@contextlib.contextmanager
def _secret(text: str) -> Iterator[int]:
    """Give a descriptor that a password can be read from, once."""
    reading, writing = os.pipe()
    try:
        os.write(writing, text.encode())
        os.close(writing)
        yield reading
    finally:
        os.close(reading)
