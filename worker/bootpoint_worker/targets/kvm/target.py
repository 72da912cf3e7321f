"""The KVM driver: every verb of `Target`, each carried out by the module of its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NoReturn
from uuid import UUID

from bootpoint_common.errors import Code, Fenced, error
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import HostAccess, HostInfo, VirtualMachine, taken
from bootpoint_worker.targets.journal import FoundReplica, Journal, JournalPoint
from bootpoint_worker.targets.kvm import (
    commit,
    consolidation,
    conversion,
    creation,
    find,
    inspect,
    journal,
    look,
    opening,
    running,
    script,
    standby,
    trash,
)
from bootpoint_worker.targets.kvm.client import connected
from bootpoint_worker.targets.kvm.domain import mark_of
from bootpoint_worker.targets.kvm.host import Host, no_step
from bootpoint_worker.targets.kvm.hypervisor import Hypervisor
from bootpoint_worker.targets.kvm.nbdtls import nbd_tls
from bootpoint_worker.targets.kvm.place import Changed, Place
from bootpoint_worker.targets.kvm.qcow2 import layer_id
from bootpoint_worker.targets.kvm.reader import open_file
from bootpoint_worker.targets.kvm.session import LocalSession, Session, check
from bootpoint_worker.targets.kvm.share import shared
from bootpoint_worker.targets.kvm.ssh import SshSession
from bootpoint_worker.targets.kvm.writer import explain
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenPoint
from bootpoint_worker.targets.nbdreader import NbdReader
from bootpoint_worker.targets.nbdwriter import NbdWriter
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.sight import Sight


class KvmTarget:
    """A KVM host; see `Target`.

    Args:
        access: How it is reached. Settings: ``virt_type`` (``kvm`` or ``qemu``), ``libvirt_socket`` (path on the host),
            ``virtio_win`` (path on the host of an ISO with drivers for Windows).
        step: Called with a name before each step that a crash could separate from the one before it.
    """

    #: Each layer costs reads some: 22 points and the base are about twice the time of a flat file.
    point_limit = 22
    resumes_after_crash = True
    can_test_while_open = True
    can_share = True
    #: Seconds; a server starts in milliseconds, so giving way often is cheap.
    slice_seconds = 60.0

    def __init__(self, *, access: HostAccess, step: Callable[[str], None] = no_step) -> None:
        self.over_network = access.address != "local"
        session: Session = SshSession(access=access) if self.over_network else LocalSession(host=access.name)
        self.host = Host(
            name=access.name,
            session=session,
            hypervisor=Hypervisor(session=session, socket=access.settings.get("libvirt_socket")),
            virt_type=access.settings.get("virt_type", "kvm"),
            virtio_win=access.settings.get("virtio_win"),
            tls=partial(nbd_tls, access),
            step=step,
        )

    def inspect_host(self, storages: Sequence[str] = ()) -> HostInfo:
        """See `Target.inspect_host`."""
        return inspect.inspect_host(self.host, storages)

    def inspect(self, replica: Replica) -> Journal | None:
        """See `Target.inspect`."""
        snapshot = self.host.read(self.host.place(replica), replica)
        if snapshot is None:
            found = self.host.hypervisor.state(replica.vm_name)
            mark = mark_of(found[1]) if found else None
            if found and (mark is None or mark.replica_id != replica.replica_id):
                raise taken(self.host.name, replica, "there is one that bootpoint did not make")
            return None
        state, drift = standby.observe(self.host, snapshot)
        return snapshot.manifest.described(standby=state, drift=drift)

    def create(self, replica: Replica, *, dry_run: bool = False) -> None:
        """See `Target.create`."""
        creation.create(self.host, replica, dry_run=dry_run)

    def free_bytes(self, replica: Replica) -> int:
        """See `Target.free_bytes`."""
        return creation.free_bytes(self.host, replica)

    def open(self, replica: Replica, point: OpenPoint) -> tuple[Layer, ...]:
        """See `Target.open`."""
        return opening.open_point(self.host, replica, point)

    def open_writer(self, replica: Replica, layer: Layer, writer: int) -> NbdWriter:
        """See `Target.open_writer`."""
        place = self.host.place(replica)
        path, size = place.retried(lambda: self._serve(place, replica, layer, writer))
        name = layer_id(layer.identity)
        why = partial(explain, self.host.session, place.directory, layer.identity, name, writer)
        return NbdWriter(
            client=connected(self.host.session, path, tls=self.host.tls()),
            explain=why,
            host=self.host.name,
            size_bytes=size,
        )

    def _serve(self, place: Place, replica: Replica, layer: Layer, writer: int) -> tuple[str, int]:
        before = self.host.read(place, replica)
        manifest = before.manifest if before else None
        opened = manifest.open if manifest else None
        if before is None or manifest is None or opened is None or opened.point_id != layer.point_id:
            if manifest is not None and manifest.is_over(layer.point_id):
                raise Fenced(f"point {layer.point_id} is committed or aborted")
            self._lost(layer)
        entry = next((e for e in opened.layers if (e.slot, e.file) == (layer.slot, layer.identity)), None)
        if entry is None:
            self._lost(layer)
        name = layer_id(layer.identity)
        tls = self.host.tls()
        words = [before.digest, layer.identity, name, str(writer), *(tls.words() if tls else [])]
        result = self.host.session.run(script.script("serve"), place.directory, *words)
        if result.exit_code == script.CHANGED:
            raise Changed
        if result.exit_code == script.FENCED:
            raise Fenced(f"a later claim than {writer} has held {layer.identity}, or it is closed")
        if result.exit_code == script.GONE:
            self._lost(layer)
        if result.exit_code in (script.BUSY, script.STUCK):
            raise error(Code.BUSY, f"{layer.identity}: {result.stderr.strip()}", host=self.host.name)
        return check(self.host.session, result, f"serve {layer.identity}").text.strip(), entry.size_bytes

    def _lost(self, layer: Layer) -> NoReturn:
        raise error(Code.LAYER_LOST, f"host {self.host.name} has no open layer {layer.identity}", host=self.host.name)

    def open_reader(self, replica: Replica, point_id: UUID, slot: str) -> NbdReader:
        """See `Target.open_reader`."""
        place = self.host.place(replica)
        entry = self._layer_of(place, replica, point_id, slot)
        return open_file(self.host.session, place, entry.file, entry.size_bytes, self.host.tls())

    def share(self, replica: Replica, point_id: UUID, slot: str) -> contextlib.AbstractContextManager[Share]:
        """See `Target.share`."""
        place = self.host.place(replica)
        return shared(place, self._layer_of(place, replica, point_id, slot))

    def _layer_of(self, place: Place, replica: Replica, point_id: UUID, slot: str) -> journal.LayerEntry:
        snapshot = self.host.read(place, replica)
        entries: tuple[journal.LayerEntry, ...] = ()
        if snapshot is not None:
            manifest = snapshot.manifest
            point = manifest.point(point_id)
            if point is not None:
                entries = point.disks
            elif manifest.open is not None and manifest.open.point_id == point_id:
                entries = manifest.open.layers
        found = next((entry for entry in entries if entry.slot == slot), None)
        if found is None:
            raise error(
                Code.NO_SUCH_POINT,
                f"{replica.vm_name} on host {self.host.name} has no point {point_id} with a disk {slot!r}",
                value=str(point_id),
                job=replica.job,
                host=self.host.name,
            )
        return found

    def commit(self, replica: Replica, point: CommitPoint) -> JournalPoint:
        """See `Target.commit`."""
        return commit.commit_point(self.host, replica, point)

    def abort(self, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
        """See `Target.abort`."""
        opening.abort_point(self.host, replica, point_id, layers)

    def consolidate(self, replica: Replica, point_id: UUID) -> JournalPoint:
        """See `Target.consolidate`."""
        return consolidation.consolidate(self.host, replica, point_id)

    def remove(self, replica: Replica) -> None:
        """See `Target.remove`."""
        creation.remove(self.host, replica)

    def discard(self, replica: Replica, at: datetime, *, dry_run: bool = False) -> None:
        """See `Target.discard`."""
        trash.discard(self.host, replica, at, dry_run=dry_run)

    def find_discarded(self, known: Sequence[Replica] = ()) -> list[FoundReplica]:
        """See `Target.find_discarded`."""
        return find.find_discarded(self.host, known)

    def restore(self, replica: Replica) -> None:
        """See `Target.restore`."""
        trash.restore(self.host, replica)

    def purge(self, replica: Replica) -> None:
        """See `Target.purge`."""
        trash.purge(self.host, replica)

    def revert(self, replica: Replica, point_id: UUID | None) -> VirtualMachine:
        """See `Target.revert`."""
        return running.revert(self.host, replica, point_id)

    def start(self, replica: Replica, request: StartRequest) -> VirtualMachine:
        """See `Target.start`."""
        return running.start(self.host, replica, request)

    def examine(self, replica: Replica, point_id: UUID) -> Profile:
        """See `Target.examine`."""
        return conversion.examine(self.host, replica, point_id)

    def stop(self, replica: Replica, test_id: str | None) -> None:
        """See `Target.stop`."""
        running.stop(self.host, replica, test_id)

    def look(self, replica: Replica, test_id: str) -> Sight:
        """See `Target.look`."""
        return look.look(self.host, replica, test_id)

    def find_replicas(self) -> list[FoundReplica]:
        """See `Target.find_replicas`."""
        return find.find_replicas(self.host)

    def close(self) -> None:
        """See `Target.close`."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.host.session.close)
            stack.callback(self.host.hypervisor.close)
