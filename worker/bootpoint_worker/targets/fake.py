"""The fake target: a whole target host in memory, for tests and for trying bootpoint without a hypervisor.

It ships with the product, speaks every verb of `Target`, and is stricter than any real host: its cache forgets
what wasn't flushed when a test cuts the power, its fences never forget, and each verb can be made to fail, wait
or die at each of its steps (`FakeHost`, `STEPS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from bootpoint_common.errors import Code, Fenced, error
from bootpoint_worker.targets import fake_merge, fake_point, fake_trash
from bootpoint_worker.targets import fake_standby as standby
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.fake_call import Call, Session, calling
from bootpoint_worker.targets.fake_fault import STEPS, Pause
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.fake_io import FakeReader, FakeWriter
from bootpoint_worker.targets.fake_journal import Manifest, identities, runbook
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import HostAccess, HostInfo, VirtualMachine
from bootpoint_worker.targets.journal import FoundReplica, Journal, JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenPoint
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.sight import Sight

__all__ = ["STEPS", "FakeHost", "FakeTarget", "Pause", "connect"]

#: What the fake host offers; the union of what the real ones do.
BUSES = ("virtio", "scsi", "sata", "ide")
LARGE_SECTOR_BUSES = ("virtio", "scsi")
NIC_MODELS = ("virtio", "e1000e", "e1000")


def connect(access: HostAccess) -> FakeTarget:
    """Make a session with the host of ``access.address``; nothing is sent yet."""
    return FakeTarget(access, FakeHost.at(access.address))


class FakeTarget:
    """A session with a `FakeHost`; see `Target` for what each verb promises.

    Args:
        access: Address and credentials; ``settings`` may hold other values for the attributes below.
        host: The host.

    Attributes:
        point_limit: As in `Target`; by default what KVM says, like the others.
        resumes_after_crash: As in `Target`.
        can_test_while_open: As in `Target`.
        can_share: As in `Target`; nothing in memory can be reached by another program.
        over_network: As in `Target`; by default as a host that is somewhere else.
        slice_seconds: As in `Target`.
    """

    can_share = False

    def __init__(self, access: HostAccess, host: FakeHost) -> None:
        self.point_limit: int = access.settings.get("point_limit", 22)
        self.resumes_after_crash: bool = access.settings.get("resumes_after_crash", True)
        self.can_test_while_open: bool = access.settings.get("can_test_while_open", True)
        self.over_network: bool = access.settings.get("over_network", True)
        self.slice_seconds: float = access.settings.get("slice_seconds", 60.0)
        self._host = host
        self._session = Session(access, host)

    def inspect_host(self, storages: Sequence[str] = ()) -> HostInfo:  # noqa: ARG002 - it lists all that it has
        """Ask the host what it is and has."""
        host = self._host
        host.fire("inspect_host", "called", self._session)
        with host.lock:
            self._session.check()
            info = HostInfo(
                version="fake 1",
                cpus=host.cpus,
                memory_bytes=host.memory_bytes,
                storages=host.storage_list(),
                networks=host.networks,
                buses=BUSES,
                nic_models=NIC_MODELS,
                vms=host.virtual_machines(),
                running_memory_bytes=host.running_memory_bytes(),
                large_sector_buses=LARGE_SECTOR_BUSES,
            )
        host.fire("inspect_host", "done", self._session)
        return info

    def find_replicas(self) -> list[FoundReplica]:
        """Return every replica that the host itself knows."""
        return self._found("find_replicas", discarded=False)

    def find_discarded(self, known: Sequence[Replica] = ()) -> list[FoundReplica]:  # noqa: ARG002 - it finds all
        """Return every replica in the host's trash."""
        return self._found("find_discarded", discarded=True)

    def _found(self, verb: str, *, discarded: bool) -> list[FoundReplica]:
        host = self._host
        host.fire(verb, "called", self._session)
        with host.lock:
            self._session.check()
            found = [
                FoundReplica("/".join(part for part in place if part), manifest.replica, self._journal(manifest))
                for place, manifest in sorted(host.manifests.items())
                if not manifest.removing and (manifest.discarded_at is not None) is discarded
            ]
        host.fire(verb, "done", self._session)
        return found

    def inspect(self, replica: Replica) -> Journal | None:
        """Read a replica's journal."""
        with calling(self._session, "inspect", replica, locked=False) as call, self._host.lock:
            manifest = call.find()
            return None if manifest is None else self._journal(manifest)

    def _journal(self, manifest: Manifest) -> Journal:
        vms = self._host.vms
        vm = vms.get(manifest.replica.vm_name)
        tests = (vms.get(manifest.replica.machine_name(test_id)) for test_id in manifest.tests)
        return manifest.journal(
            running=vm is not None and vm.state == "running",
            tested=any(test is not None and test.state == "running" for test in tests),
            written=any(self._host.layers[name].written for name in manifest.scratch.values()),
            standings=self._host.standings(manifest),
        )

    def create(self, replica: Replica, *, dry_run: bool = False) -> None:
        """Make the replica's place and journal, or bring an existing one up to date."""
        with calling(self._session, "create", replica) as call:
            with call.step("check"):
                manifest = call.find()
                self._check_offer(replica)
            if dry_run:
                return
            with call.step("journal"):
                fake_point.sweep(call, manifest)
                call.store(replace(manifest, replica=replica) if manifest is not None else Manifest(replica))

    def free_bytes(self, replica: Replica) -> int:
        """Return the free bytes of the replica's storage."""
        with calling(self._session, "free_bytes", replica, locked=False), self._host.lock:
            self._check_offer(replica)
            return self._host.free_bytes(replica.storage)

    def open(self, replica: Replica, point: OpenPoint) -> tuple[Layer, ...]:
        """Make an empty layer for every disk above the head."""
        with calling(self._session, "open", replica) as call:
            with call.step("check"):
                manifest = call.find()
                if manifest is None:
                    message = f"host {self._host.name} has no replica {replica.vm_name}"
                    raise error(Code.NO_SUCH_VM, message, value=replica.vm_name, host=self._host.name)
                fake_point.check_epoch(call, manifest, point.epoch)
                if manifest.open_point_id == point.point_id:
                    return manifest.open_layers
                fake_point.check_open(call, manifest, point)
            with call.step("layers"):
                fake_point.sweep(call, manifest)
                layers = tuple(fake_point.make_layer(call, manifest, point.point_id, disk) for disk in point.disks)
            with call.step("journal"):
                call.store(replace(manifest, open_point_id=point.point_id, open_layers=layers))
            return layers

    def open_writer(self, replica: Replica, layer: Layer, writer: int) -> FakeWriter:
        """Take hold of a layer for a claim, after every earlier writer was ended."""
        host, identity = self._host, layer.identity
        with calling(self._session, "open_writer", replica) as call:
            manifest = call.find()
            with call.step("fence"):
                fence = host.fences.get(identity)
                if fence is not None and (fence.closed or fence.highest > writer):
                    raise Fenced(f"layer {identity} on host {host.name} is not for writer {writer}")
                if fence is None or manifest is None or layer not in manifest.open_layers:
                    raise host.layer_lost(identity)
                fence.highest = writer
                host.end_holds(lambda hold: hold.identity == identity, lambda: Fenced(f"layer {identity} was taken"))
            with call.step("serve"):
                file = host.layers.get(identity)
                if file is None:
                    raise host.layer_lost(identity)
                return FakeWriter(host, file, host.hold(identity, self._session))

    def open_reader(self, replica: Replica, point_id: UUID, slot: str) -> FakeReader:
        """Read one disk of a committed point, or of the open one."""
        host = self._host
        with calling(self._session, "open_reader", replica, locked=False) as call, host.lock:
            manifest = call.find()
            point = manifest.point(point_id) if manifest is not None else None
            found: dict[str, str] = identities(point) if point is not None else {}
            if manifest is not None and manifest.open_point_id == point_id:
                found = {layer.slot: layer.identity for layer in manifest.open_layers}
            if slot not in found:
                raise call.no_point(f"{point_id} with disk {slot}")
            if host.writers(found[slot]):
                raise error(Code.BUSY, f"layer {found[slot]} on host {host.name} has a writer", host=host.name)
            if found[slot] not in host.layers:
                raise host.layer_lost(found[slot])
            return FakeReader(host, host.layers[found[slot]], self._session)

    def share(self, replica: Replica, point_id: UUID, slot: str) -> AbstractContextManager[Share]:  # noqa: ARG002 - it refuses
        """Refuse: the host is in memory."""
        raise error(
            Code.HOST_UNSUPPORTED,
            f"the points of fake host {self._host.name} are in memory, and can't be shared with other programs",
            job=replica.job,
            host=self._host.name,
        )

    def commit(self, replica: Replica, point: CommitPoint) -> JournalPoint:
        """End all writers, check the layers, and make the point visible in one atomic act."""
        with calling(self._session, "commit", replica) as call:
            manifest = call.find()
            if manifest is None:
                raise self._host.layer_lost(str(point.point_id))
            committed = manifest.point(point.point_id)
            if committed is None:
                manifest, committed = fake_point.make_visible(call, manifest, point)
            with call.step("standby"):
                if committed is manifest.head:
                    manifest = standby.remake(call, manifest, committed)
                    call.store(manifest)
            with call.step("runbook"):
                call.store(replace(manifest, runbook=runbook(manifest)))
            return committed

    def abort(self, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
        """End all writers of these layers and throw them away; a late abort touches nothing."""
        with calling(self._session, "abort", replica) as call:
            manifest = call.find()
            if manifest is None or manifest.open_point_id != point_id:
                return
            if any(layer not in manifest.open_layers for layer in layers):
                return
            with call.step("fence"):
                fake_point.close_fences(call, manifest.open_layers, "aborted")
            with call.step("journal"):
                manifest = replace(manifest, open_point_id=None, open_layers=())
                call.store(manifest)
            with call.step("layers"):
                fake_point.sweep(call, manifest)

    def consolidate(self, replica: Replica, point_id: UUID) -> JournalPoint:
        """Remove a committed point by merging it with its successor."""
        with calling(self._session, "consolidate", replica) as call:
            return fake_merge.consolidate(call, point_id)

    def remove(self, replica: Replica) -> None:
        """Remove the standby VM, all its points and the journal."""
        with calling(self._session, "remove", replica) as call:
            call.find()
            manifest = self._host.manifests.get(call.place)
            if manifest is None:
                return
            with call.step("standby"):
                standby.undefine_all(call, manifest)
            with call.step("mark"):
                call.store(replace(manifest, removing=True))
            with call.step("layers"):
                fake_point.close_fences(call, manifest.open_layers, "removed")
                fake_point.sweep(call, None)
            with call.step("journal"):
                del self._host.manifests[call.place]

    def discard(self, replica: Replica, at: datetime, *, dry_run: bool = False) -> None:
        """Put a replica into the trash beside its place."""
        with calling(self._session, "discard", replica) as call:
            fake_trash.discard(call, at, dry_run=dry_run)

    def restore(self, replica: Replica) -> None:
        """Take a replica out of the trash."""
        with calling(self._session, "restore", replica) as call:
            fake_trash.restore(call)

    def purge(self, replica: Replica) -> None:
        """Remove a replica from the trash for good."""
        with calling(self._session, "purge", replica) as call:
            fake_trash.purge(call)

    def revert(self, replica: Replica, point_id: UUID | None) -> VirtualMachine:
        """Let the standby stand on a point."""
        with calling(self._session, "revert", replica) as call:
            manifest, point = self._chosen(call, point_id)
            return standby.revert(call, manifest, point, held=point_id is not None)

    def start(self, replica: Replica, request: StartRequest) -> VirtualMachine:
        """Start a VM in a fresh scratch layer above a point."""
        with calling(self._session, "start", replica) as call:
            manifest, point = self._chosen(call, request.point_id)
            if request.point_id is None and request.test_id is None and manifest.held:
                manifest, point = self._chosen(call, standby.stands_on(call, manifest))
            standby.check_conversion(call, request.conversion)
            if request.test_id is not None:
                return standby.start_test(call, manifest, point, request, request.test_id)
            return standby.start(call, manifest, point, request)

    def examine(self, replica: Replica, point_id: UUID) -> Profile:
        """Look at a point's partition tables; nothing is ever converted here."""
        host = self._host
        with calling(self._session, "examine", replica) as call:
            manifest = call.find()
            point = manifest.point(point_id) if manifest is not None else None
            if manifest is None or point is None:
                raise call.no_point(point_id)
            with call.step("journal"):
                profile = standby.profile_of(host, manifest, point)
                call.store(replace(manifest, profile=profile))
            return profile

    def stop(self, replica: Replica, test_id: str | None) -> None:
        """End a VM that `start` made."""
        with calling(self._session, "stop", replica) as call:
            manifest = call.find()
            if manifest is None:
                return
            if test_id is None:
                standby.stop(call, manifest)
            else:
                standby.stop_test(call, manifest, test_id)

    def look(self, replica: Replica, test_id: str) -> Sight:
        """Look at a test VM; see `FakeHost.sights`."""
        with calling(self._session, "look", replica, locked=False) as call, self._host.lock:
            manifest = call.find()
            return Sight(state="absent") if manifest is None else standby.look(call, manifest, test_id)

    def close(self) -> None:
        """End the session; may be called twice."""
        self._session.close()

    def _chosen(self, call: Call, point_id: UUID | None) -> tuple[Manifest, JournalPoint]:
        """Return the replica, and a committed point of it, or the head for None."""
        manifest = call.find()
        if manifest is not None:
            found = manifest.head if point_id is None else manifest.point(point_id)
            if found is not None:
                return manifest, found
        raise call.no_point(point_id or "yet")

    def _check_offer(self, replica: Replica) -> None:
        """Refuse a replica that asks for what the host doesn't have."""
        host = self._host.name
        if replica.storage not in self._host.storages:
            message = f"host {host} has no storage {replica.storage}"
            raise error(Code.STORAGE_UNKNOWN, message, value=replica.storage, job=replica.job, host=host)
        known = {network.name for network in self._host.networks}
        for nic in replica.nics:
            if nic.network is not None and nic.network not in known:
                message = f"host {host} has no network {nic.network}"
                raise error(Code.NETWORK_UNKNOWN, message, value=nic.network, job=replica.job, host=host)
        asked = {disk.bus for disk in replica.disks} | {nic.model for nic in replica.nics}
        for name in sorted(asked.difference(BUSES, NIC_MODELS)):
            message = f"host {host} has no bus or device model {name}"
            raise error(Code.HOST_UNSUPPORTED, message, value=name, job=replica.job, host=host)
