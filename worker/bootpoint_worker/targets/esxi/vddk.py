"""Servers of disks: nbdkit with its vddk plugin, one for each disk that is read or written, on this machine.

::

    libnbd ──unix socket──► nbdkit (blocksize filter) ──► vddk plugin ──► libvixDiskLib ──NBDSSL──► the host

Each connection of NBD is a new opening of the disk, and a disk is opened for writing once: so one connection a disk,
with several requests in flight. The server ends with its connection, and so with this process. Sources:
nbdkit-vddk-plugin(1), nbdkit-blocksize-filter(1); sizes and limits: VDDK Programming Guide, "Best Practices for NBDSSL
transport".
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets import nbdkit
from bootpoint_worker.targets.esxi import fence
from bootpoint_worker.targets.esxi.machine import LOCK_TICK, LOCK_TIMEOUT
from bootpoint_worker.targets.esxi.means import LIBDIR, LIBDIR_SETTING, PLUGIN_SETTING
from bootpoint_worker.targets.nbdclient import Client
from bootpoint_worker.targets.snapshots.vm import Disk

if TYPE_CHECKING:
    from bootpoint_worker.targets.esxi.host import Host

#: Transports in the order of preference: encrypted, else plain; the others of VDDK need a VM, or a SAN.
TRANSPORTS = "nbdssl:nbd"

#: Bytes of the smallest and the largest request that VDDK is given: sectors, and NFC's buffers.
_BLOCKSIZE = ("minblock=512", "maxdata=2M")

#: Seconds within which a disk must be open: the library logs in, and asks the host for a ticket.
CONNECT_TIMEOUT = 90.0

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


class Server(nbdkit.Server):
    """A running nbdkit with the vddk plugin."""

    def explain(self, said: str, what: str) -> BootpointError:
        """Return what the library said as an error of ours; see `nbdkit.Server.explain`."""
        hint = None
        if _MISSING.search(said):
            code = Code.HOST_UNSUPPORTED
            hint = "install nbdkit, its vddk plugin and VMware's VDDK on the worker's machine: docs/esxi.md"
        else:
            code = next((code for code, words in _MEANINGS if words.search(said)), Code.TARGET_WRITE_ERROR)
        return error(code, f"host {self.host} {what}: {said}", hint=hint, host=self.host)


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
    missing = error(
        Code.HOST_UNSUPPORTED,
        "this worker has no nbdkit, by which disks of ESXi are read and written",
        hint="install nbdkit, its vddk plugin and VMware's VDDK on the worker's machine: docs/esxi.md",
        host=host.name,
    )
    with nbdkit.secret(host.access.password or "") as secret:
        words = _words(host, disk, secret, read_only=writer is None)
        process = nbdkit.spawn(words, directory, secret, lasting=lasting, missing=missing)
    fence.enlist(directory, process.pid)
    return Server(host.name, process, directory)


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
            return server, nbdkit.connected(server, contexts, CONNECT_TIMEOUT)
        except BootpointError as exc:
            if exc.code is not Code.BUSY or time.monotonic() > deadline:
                raise
        time.sleep(LOCK_TICK)


def _words(host: Host, disk: Disk, secret: int, *, read_only: bool) -> list[str]:
    access = host.access
    words = ["--filter=blocksize", *(["--readonly"] if read_only else [])]
    words += [
        str(access.settings.get(PLUGIN_SETTING) or "vddk"),
        f"libdir={access.settings.get(LIBDIR_SETTING) or LIBDIR}",
        f"server={access.address}",
        f"port={access.port}",
        f"user={access.user}",
        f"password=-{secret}",
        f"thumbprint={host.client.thumbprint}",
        f"vm=moref={disk.vm.id}",
        f"transports={TRANSPORTS}",
        f"file={disk.file}",
    ]
    words += [f"snapshot={disk.snapshot}"] if disk.snapshot else []
    return [*words, *_BLOCKSIZE]
