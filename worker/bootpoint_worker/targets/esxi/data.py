"""Reading and writing disks of a replica: who may, and what it means when a server ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_worker.targets.esxi import commit, fence, journal, layout, machine, place, vddk
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.nbdclient import Client
from bootpoint_worker.targets.nbdreader import ALLOCATION, NbdReader
from bootpoint_worker.targets.nbdwriter import NbdWriter
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share

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


def open_writer(host: Host, replica: Replica, layer: Layer, writer: int) -> EsxiWriter:
    """Take hold of a layer; see `Target.open_writer`."""
    before, entry = place.retried(host, lambda: _claimed(host, replica, layer, writer))
    host.step("writer:fence")
    fence.end_writers(host, entry.file)
    commit.check_leaves(host, before, layer.point_id, (entry,))
    host.step("writer:serve")
    disk = vddk.Disk(before.vm.moref, entry.file)
    server, client = vddk.opened(host, disk, writer=writer)
    return EsxiWriter(
        client=client,
        server=server,
        explain=lambda: _explain(host, replica, layer, writer),
        size_bytes=entry.size_bytes,
    )


def _claimed(
    host: Host, replica: Replica, layer: Layer, writer: int
) -> tuple[place.Snapshot, journal.LayerEntry]:
    """Write down that a claim holds a layer from now on."""
    before = place.read(host, replica)
    opened = before.manifest.open if before is not None else None
    if before is None or opened is None or opened.point_id != layer.point_id:
        _refuse_over(before, layer)
        raise commit.lost(host, replica, layer.identity)
    entry = next((e for e in opened.layers if (e.slot, e.file) == (layer.slot, layer.identity)), None)
    if entry is None:
        raise commit.lost(host, replica, layer.identity)
    if opened.closed or opened.fences.get(layer.slot, 0) > writer:
        raise Fenced(f"a later claim than {writer} has held {layer.identity}, or it is closed")
    fenced = msgspec.structs.replace(opened, fences=opened.fences | {layer.slot: writer})
    return place.change(before, msgspec.structs.replace(before.manifest, open=fenced)), entry


def _refuse_over(found: place.Snapshot | None, layer: Layer) -> None:
    manifest = found.manifest if found is not None else None
    if manifest is not None and (manifest.was_committed(layer.point_id) or layer.point_id in manifest.aborted):
        raise Fenced(f"point {layer.point_id} is committed or aborted")


def _explain(host: Host, replica: Replica, layer: Layer, writer: int) -> NoReturn:
    """Find out why a writer's server ended, and raise it."""
    found = place.read(host, replica)
    _refuse_over(found, layer)
    opened = found.manifest.open if found is not None else None
    if found is None or opened is None or opened.point_id != layer.point_id:
        raise commit.lost(host, replica, layer.identity)
    if opened.closed or opened.fences.get(layer.slot, 0) > writer:
        raise Fenced(f"layer {layer.identity} was taken from writer {writer}")
    state = machine.read_state(host, found.vm.entity)
    machine.refuse_running(host, replica, state)
    if state.mark != str(layer.point_id):
        raise commit.lost(host, replica, layer.identity)
    raise error(
        Code.TARGET_WRITE_ERROR,
        f"the server of {layer.identity} on host {host.name} ended or stopped answering",
        host=host.name,
    )


def open_reader(host: Host, replica: Replica, point_id: UUID, slot: str) -> NbdReader:
    """Read one disk of a point; see `Target.open_reader`."""
    disk, size = _disk_of(host, replica, point_id, slot)
    server, client = vddk.opened(host, disk, contexts=(ALLOCATION,))
    return NbdReader(client=client, size_bytes=size, host=host.name, release=server.end)


@contextlib.contextmanager
def shared(host: Host, disk: vddk.Disk, slot: str, size_bytes: int) -> Iterator[Share]:
    """Share one disk of a point while the block lasts; see `Target.share`."""
    server = vddk.serve(host, disk, lasting=True)
    try:
        # The first connection tells whether the disk can be opened.
        vddk.connected(server).close()
        yield Share(slot=slot, socket=str(server.socket), size_bytes=size_bytes)
    finally:
        server.process.terminate()
        server.end()


def share(host: Host, replica: Replica, point_id: UUID, slot: str) -> contextlib.AbstractContextManager[Share]:
    """Look whether a disk of a point is there, and return what shares it."""
    disk, size = _disk_of(host, replica, point_id, slot)
    return shared(host, disk, slot, size)


def _disk_of(host: Host, replica: Replica, point_id: UUID, slot: str) -> tuple[vddk.Disk, int]:
    found = place.read(host, replica)
    manifest = found.manifest if found is not None else None
    point = manifest.point(point_id) if manifest is not None else None
    entries: tuple[journal.LayerEntry, ...] = ()
    snapshot = None
    if point is not None:
        entries, snapshot = layout.disks_of(host, replica, point), point.snapshot
    if manifest is not None and manifest.open is not None and manifest.open.point_id == point_id:
        entries = manifest.open.layers
    entry = next((entry for entry in entries if entry.slot == slot), None)
    if found is None or entry is None:
        text = f"{replica.vm_name} on host {host.name} has no point {point_id} with a disk {slot!r}"
        raise host.problem(Code.NO_SUCH_POINT, text, replica, value=str(point_id))
    return vddk.Disk(found.vm.moref, entry.file, snapshot), entry.size_bytes
