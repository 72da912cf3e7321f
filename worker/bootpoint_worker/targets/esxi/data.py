"""Reading and writing disks: each through a server of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from bootpoint_common.errors import BootpointError
from bootpoint_worker.targets import nbdkit
from bootpoint_worker.targets.esxi import vddk
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.nbdclient import Client
from bootpoint_worker.targets.nbdreader import ALLOCATION, NbdReader
from bootpoint_worker.targets.nbdwriter import NbdWriter
from bootpoint_worker.targets.snapshots.vm import Disk

if TYPE_CHECKING:
    import nbd


class EsxiWriter(NbdWriter):
    """A writer whose server is gone for certain once it is closed; see `LayerWriter`.

    Args:
        client: The connection to the server.
        server: The server.
        explain: Finds out why the connection ended, and raises that.
        size_bytes: Size of the disk.
    """

    def __init__(
        self, *, client: Client, server: vddk.Server, explain: Callable[[], NoReturn], size_bytes: int
    ) -> None:
        super().__init__(client=client, explain=explain, host=server.host, size_bytes=size_bytes)
        self._server = server

    def close(self) -> None:
        """Let go: the host has closed the disk when this returns; see `LayerWriter.close`."""
        super().close()
        self._server.end()

    def _refusal(self, exc: nbd.Error, what: str) -> BootpointError:
        """Return what the library said: its plugin answers every failure with the same error number."""
        return self._server.problem(f"could not {what}") if self._server.said() else super()._refusal(exc, what)


def open_writer(host: Host, disk: Disk, number: int, explain: Callable[[], NoReturn]) -> EsxiWriter:
    """Write to a leaf; see `Host.writer`."""
    server, client = vddk.opened(host, disk, writer=number)
    return EsxiWriter(client=client, server=server, explain=explain, size_bytes=disk.size_bytes)


def open_reader(host: Host, disk: Disk) -> NbdReader:
    """Read a disk; see `Host.reader`."""
    server, client = vddk.opened(host, disk, contexts=(ALLOCATION,))
    return NbdReader(client=client, size_bytes=disk.size_bytes, host=host.name, release=server.end)


@contextlib.contextmanager
def served(host: Host, disk: Disk, *, writable: bool) -> Iterator[str]:
    """Serve a disk while the block lasts; see `Host.served`."""
    server = vddk.serve(host, disk, writer=0 if writable else None, lasting=True)
    try:
        if writable:
            server.wait()
        else:
            # The first connection tells whether the disk can be opened.
            nbdkit.connected(server, timeout=vddk.CONNECT_TIMEOUT).close()
        yield str(server.socket)
    finally:
        server.process.terminate()
        server.end()
