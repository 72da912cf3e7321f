"""vSphere's own way of each act that the verbs are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NoReturn
from uuid import UUID

from bootpoint_worker.targets.esxi import (
    creation,
    data,
    fence,
    fitting,
    growth,
    inspect,
    inventory,
    machine,
    sight,
    trial,
)
from bootpoint_worker.targets.esxi.hardware import CONTROLLERS, NIC_KINDS
from bootpoint_worker.targets.esxi.host import MAC_PREFIX, Host
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.layer import OpenDisk
from bootpoint_worker.targets.nbdreader import NbdReader
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.snapshots import journal
from bootpoint_worker.targets.snapshots.place import Snapshot
from bootpoint_worker.targets.snapshots.vm import Disk, State, TestPlan, Vm


class Vsphere(Host):
    """One ESXi host or vCenter, with all acts; each is explained in `snapshots.host.Host`."""

    def inspect(self) -> HostInfo:
        """See `Host.inspect`."""
        machines = self.machines()
        return replace(
            inspect.inspect_host(self.client, self.access),
            buses=tuple(CONTROLLERS),
            nic_models=tuple(NIC_KINDS),
            mac_prefix=MAC_PREFIX,
            vms=tuple(vm.described for vm in machines),
            running_memory_bytes=sum(vm.memory_bytes for vm in machines if vm.on),
        )

    def machines(self) -> list[Vm]:
        """See `Host.machines`."""
        return inventory.machines(self.client)

    def state(self, vm: Vm) -> State:
        """See `Host.state`."""
        return machine.read_state(self, vm)

    def make_snapshot(self, vm: Vm, name: str, text: str, point_id: UUID | None = None) -> str:
        """See `Host.make_snapshot`."""
        return machine.make_snapshot(self, vm, name, text, point_id)

    def revert(self, vm: Vm, snapshot: str) -> None:  # noqa: ARG002 - the snapshot knows its VM
        """See `Host.revert`."""
        machine.revert(self, snapshot)

    def remove_snapshot(self, vm: Vm, snapshot: str, seconds: float) -> None:  # noqa: ARG002 - the same
        """See `Host.remove_snapshot`."""
        machine.remove_snapshot(self, snapshot, seconds)

    def merge_rest(self, vm: Vm, seconds: float) -> None:
        """See `Host.merge_rest`."""
        machine.merge_rest(self, vm, seconds)

    def snapshot_files(self, vm: Vm, snapshots: list[str]) -> dict[str, dict[int, str]]:  # noqa: ARG002 - the same
        """See `Host.snapshot_files`."""
        return machine.snapshot_files(self, snapshots)

    def stored_bytes(self, vm: Vm) -> dict[str, int]:
        """See `Host.stored_bytes`."""
        return machine.stored_bytes(self, vm)

    def mark(self, vm: Vm, point_id: UUID) -> None:
        """See `Host.mark`."""
        machine.mark(self, vm, point_id)

    def rename(self, vm: Vm, name: str) -> None:
        """See `Host.rename`."""
        machine.rename(self, vm, name)

    def power_on(self, vm: Vm) -> None:
        """See `Host.power_on`."""
        machine.power_on(self, vm)

    def power_off(self, vm: Vm) -> None:
        """See `Host.power_off`."""
        machine.power_off(self, vm)

    def destroy(self, vm: Vm) -> None:
        """See `Host.destroy`."""
        machine.destroy(self, vm)

    def sight(self, vm: Vm, serial: str) -> Sight:
        """See `Host.sight`."""
        return sight.look(self, vm, serial)

    def check(self, replica: Replica) -> None:
        """See `Host.check`."""
        creation.check(self, replica)

    def make(self, replica: Replica) -> None:
        """See `Host.make`."""
        creation.make(self, replica)

    def remake_disks(self, before: Snapshot, state: State) -> None:
        """See `Host.remake_disks`."""
        fitting.remake_disks(self, before, state)

    def fit(self, before: Snapshot, state: State, point: journal.PointEntry | None) -> tuple[dict[str, int], bool]:
        """See `Host.fit`."""
        return fitting.fit(self, before, state, point)

    def grow(self, before: Snapshot, disks: Sequence[OpenDisk]) -> dict[str, int]:
        """See `Host.grow`."""
        return growth.grow(self, before, disks)

    def drop(self, before: Snapshot, layers: Sequence[journal.LayerEntry]) -> None:
        """See `Host.drop`."""
        growth.drop(self, before, layers)

    def rehang(self, before: Snapshot, state: State) -> None:
        """See `Host.rehang`."""
        fitting.rehang(self, before, state)

    def make_test(self, before: Snapshot, replica: Replica, point: journal.PointEntry, test: TestPlan) -> Vm:
        """See `Host.make_test`."""
        return trial.make_test(self, before, replica, point, test)

    def end_test(self, vm: Vm) -> None:
        """See `Host.end_test`."""
        trial.end_test(self, vm)

    def end_writers(self, file: str) -> None:
        """See `Host.end_writers`."""
        fence.end_writers(self, file)

    def writer(self, disk: Disk, number: int, explain: Callable[[], NoReturn]) -> data.EsxiWriter:
        """See `Host.writer`."""
        return data.open_writer(self, disk, number, explain)

    def reader(self, disk: Disk) -> NbdReader:
        """See `Host.reader`."""
        return data.open_reader(self, disk)

    def served(self, disk: Disk, *, writable: bool = False) -> AbstractContextManager[str]:
        """See `Host.served`."""
        return data.served(self, disk, writable=writable)
