"""The fake host as its target sees it: storages, layers, fences, VMs, manifests, and who writes what.

Everything here but `Machine.locked_place` is short, and asks for `Machine.lock` to be held or takes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.units import GiB
from bootpoint_worker.targets.fake_journal import Branch, Manifest
from bootpoint_worker.targets.fake_layer import FakeLayer
from bootpoint_worker.targets.host import Network, Storage, VirtualMachine
from bootpoint_worker.targets.replica import Nic, Replica
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.standing import Standing

#: Where a replica's manifest lies: storage, folder, name of the VM.
Place = tuple[str, str, str]

#: The folder beside replicas in which deleted ones lie, each by its id.
TRASH = "/.bootpoint-trash"


def place_of(replica: Replica) -> Place:
    """Return where a replica's manifest lies."""
    return replica.storage, replica.folder, replica.vm_name


def trash_of(replica: Replica) -> Place:
    """Return where a replica's manifest lies once it was deleted."""
    return replica.storage, replica.folder + TRASH, str(replica.replica_id)


@dataclass(slots=True)
class Fence:
    """Who may write a layer; durable.

    Attributes:
        highest: The highest writer number that held it.
        closed: The point was committed or aborted: nobody ever writes it again.
    """

    highest: int = 0
    closed: bool = False


@dataclass(slots=True)
class FakeVm:
    """A VM definition on the fake host; scratch layers by slot, empty for a VM that bootpoint did not make; ``looks``
    says how often it was looked at."""

    name: str
    uuid: str
    state: str = "off"
    replica_id: UUID | None = None
    layers: Mapping[str, str] | None = None
    nics: tuple[Nic, ...] = ()
    serial_log: str | None = None
    looks: int = 0


class Hold:
    """A writer's hold on a layer, as the host sees it.

    Attributes:
        identity: The layer.
        session: The session that it came through.
        ended: What every call of the writer raises from now on; None while the hold lasts.
    """

    def __init__(self, identity: str, session: object) -> None:
        self.identity = identity
        self.session = session
        self.ended: Callable[[], BaseException] | None = None


class Machine:
    """The state of a fake host.

    Args:
        name: Its address.
        storages: Size in bytes of every storage, by name.
        networks: Names of its networks.

    Attributes:
        reachable: Set to false to take it off the network; calls then raise ``host_unreachable``.
        boot: Counts power cuts; a call that began before one fails at its next step.
        lock: Guards everything below; never held while a fault waits.
        manifests: Journals, by place.
        layers: Files of disks, by identity.
        fences: Fences, by the layer's identity; they outlive the layer.
        vms: VM definitions, by name.
        sights: What a test VM shows at each look, the last one for ever, by the name of its standby.
    """

    def __init__(self, name: str, storages: Mapping[str, int], networks: tuple[str, ...]) -> None:
        super().__init__()
        self.name = name
        self.storages = dict(storages)
        self.networks = tuple(Network(network, "nat") for network in networks)
        self.cpus = 8
        self.memory_bytes = 64 * GiB
        self.reachable = True
        self.boot = 0
        self.lock = threading.RLock()
        self.manifests: dict[Place, Manifest] = {}
        self.layers: dict[str, FakeLayer] = {}
        self.fences: dict[str, Fence] = {}
        self.vms: dict[str, FakeVm] = {}
        self.sights: dict[str, Sequence[Sight]] = {}
        self._holds: list[Hold] = []
        self._place_locks: dict[Place, threading.Lock] = {}
        self._numbers = 0

    @contextmanager
    def locked_place(self, place: Place) -> Iterator[None]:
        """Hold the lock file of a replica's place."""
        with self.lock:
            lock = self._place_locks.setdefault(place, threading.Lock())
        with lock:
            yield

    def hold(self, identity: str, session: object) -> Hold:
        """Begin a writer's hold on a layer; earlier ones must have been ended."""
        hold = Hold(identity, session)
        self._holds.append(hold)
        return hold

    def release(self, hold: Hold) -> None:
        """End a hold that its writer gives up."""
        with self.lock:
            self.end_holds(lambda other: other is hold, lambda: self.failed("it was closed"))

    def scratch_layers(self, manifest: Manifest, identities: Mapping[str, str]) -> dict[str, str]:
        """Make a fresh scratch layer above each layer of a point.

        Args:
            manifest: The replica.
            identities: The layers of the point, by slot.

        Returns:
            The scratch layers, by slot.
        """
        made = {}
        for slot, identity in identities.items():
            below = self.layers[identity]
            name = f"{manifest.replica.vm_name}-{slot}.scratch-{self.next_number()}"
            self.layers[name] = FakeLayer(identity=name, place=below.place, size_bytes=below.size_bytes, backing=below)
            made[slot] = name
        return made

    def put_aside(self, manifest: Manifest) -> Manifest:
        """Return the manifest without scratch layers: written ones are kept as a branch, others deleted."""
        if any(self.layers[name].written for name in manifest.scratch.values()):
            branch = Branch(dict(manifest.scratch), manifest.recorded)
            return replace(manifest, scratch={}, recorded=False, branches=(*manifest.branches, branch))
        for name in manifest.scratch.values():
            del self.layers[name]
        return replace(manifest, scratch={}, recorded=False)

    def standings(self, manifest: Manifest) -> tuple[Standing, ...]:
        """Return what stands on which point of a replica: the standby first."""
        found = []
        for test_id, layers in ((None, manifest.scratch), *manifest.tests.items()):
            below = {self.layers[name].backing for name in layers.values()}
            points = {manifest.stands_on(layer.identity) for layer in below if layer is not None}
            name = manifest.replica.machine_name(test_id)
            held = manifest.held and test_id is None
            found += [Standing(point, name, test_id, held) for point in points if point is not None]
        return tuple(found)

    def free_bytes(self, storage: str) -> int:
        """Return the room that is left on a storage."""
        used = sum(layer.stored_bytes for layer in self.layers.values() if layer.storage == storage)
        return max(0, self.storages[storage] - used)

    def next_number(self) -> int:
        """Return a number that was never used on this host."""
        with self.lock:
            self._numbers += 1
            return self._numbers

    def virtual_machines(self) -> tuple[VirtualMachine, ...]:
        """Return all VMs, by name."""
        return tuple(VirtualMachine(vm.name, vm.uuid, vm.state, vm.replica_id) for _, vm in sorted(self.vms.items()))

    def running_memory_bytes(self) -> int:
        """Return the memory of all running VMs of replicas."""
        sizes = {m.replica.replica_id: m.replica.memory_bytes for m in self.manifests.values()}
        return sum(sizes.get(vm.replica_id, 0) for vm in self.vms.values() if vm.replica_id and vm.state == "running")

    def storage_list(self) -> tuple[Storage, ...]:
        """Return all storages with the room that is left."""
        return tuple(Storage(n, f"/fake/{n}", size, self.free_bytes(n)) for n, size in self.storages.items())

    def unreachable(self) -> BootpointError:
        """Return the error of a host that doesn't answer."""
        return error(Code.HOST_UNREACHABLE, f"host {self.name} does not answer", host=self.name)

    def failed(self, why: str) -> BootpointError:
        """Return the error of a writer that can't go on."""
        return error(Code.TARGET_WRITE_ERROR, f"the writer on host {self.name} ended: {why}", host=self.name)

    def layer_lost(self, identity: str) -> BootpointError:
        """Return the error of a layer that isn't there any more."""
        return error(Code.LAYER_LOST, f"layer {identity} is not the open one on host {self.name}", host=self.name)

    def full(self, storage: str, needed: int) -> BootpointError:
        """Return the error of a storage without room."""
        free = self.free_bytes(storage)
        message = f"storage {storage} on host {self.name} has {free} bytes free, and {needed} are needed"
        return error(Code.HOST_FULL, message, value=storage, host=self.name)

    def end_holds(self, chosen: Callable[[Hold], bool], reason: Callable[[], BaseException]) -> None:
        """End the chosen holds; every call of their writers raises ``reason()`` from now on."""
        for hold in [hold for hold in self._holds if chosen(hold)]:
            hold.ended = reason
            self._holds.remove(hold)
