"""Hyper-V's own way of each act that the verbs are made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NoReturn
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.hyperv import addresses, creation, data, fitting, hardware, machine, sight
from bootpoint_worker.targets.hyperv.cluster import set_role
from bootpoint_worker.targets.hyperv.host import MAC_PREFIX, Host, session_of
from bootpoint_worker.targets.hyperv.inspect import inspect_host
from bootpoint_worker.targets.hyperv.session import HyperVSession
from bootpoint_worker.targets.layer import OpenDisk
from bootpoint_worker.targets.replica import Nic, Replica
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.snapshots import journal, layout
from bootpoint_worker.targets.snapshots.place import Snapshot
from bootpoint_worker.targets.snapshots.vm import Disk, State, TestPlan, Vm

#: Seconds that a checkpoint, a revert or a start may take on a busy host.
ACT_TIMEOUT = 600.0

#: Folders that Hyper-V makes for its own files in that of a VM.
FOLDERS = ("Virtual Machines", "Snapshots", "Virtual Hard Disks")

#: Seconds between two looks at a merge.
MERGE_TICK = 2.0


class HyperV(Host):
    """One Hyper-V host, with all acts; each is explained in `snapshots.host.Host`."""

    def inspect(self) -> HostInfo:
        """See `Host.inspect`; a node of its cluster that doesn't answer is named."""
        info, machines, hints = inspect_host(self.session), [], []
        for session in self.sessions():
            try:
                machines += self._machines_of(session)
            except BootpointError as problem:
                if session is self.session:
                    raise
                hints.append(f"its cluster's node {session.access.address} is not served: {problem.message}")
        return replace(
            info,
            hints=(*info.hints, *hints),
            buses=hardware.BUSES,
            nic_models=hardware.CARDS,
            large_sector_buses=hardware.LARGE_SECTOR_BUSES,
            mac_prefix=MAC_PREFIX,
            vms=tuple(vm.described for vm in machines),
            running_memory_bytes=sum(vm.memory_bytes for vm in machines if vm.on),
        )

    def machines(self) -> list[Vm]:
        """See `Host.machines`.

        A node that doesn't answer ends it: the VM that is looked for may be there.
        """
        self.forget()
        return [vm for session in self.sessions() for vm in self._machines_of(session)]

    def _machines_of(self, session: HyperVSession) -> list[Vm]:
        return [machine.vm_of(each, session) for each in session.call("machines", safe=True)["machines"]]

    def state(self, vm: Vm) -> State:
        """See `Host.state`."""
        return machine.state_of(self.look_at(vm))

    def make_snapshot(self, vm: Vm, name: str, text: str, point_id: UUID | None = None) -> str:  # noqa: ARG002
        """See `Host.make_snapshot`: a checkpoint's notes are the VM's, which say by `mark` what it is made for."""
        leaves = [drive.file for drive in self.state(vm).drives]
        return str(self.do("checkpoint", vm, ACT_TIMEOUT, name=name, leaves=leaves)["id"])

    def revert(self, vm: Vm, snapshot: str) -> None:
        """See `Host.revert`."""
        self.do("revert", vm, ACT_TIMEOUT, checkpoint=snapshot)

    def remove_snapshot(self, vm: Vm, snapshot: str, seconds: float) -> None:
        """See `Host.remove_snapshot`."""
        self.do("merge", vm, checkpoint=snapshot)
        self.merge_rest(vm, seconds)

    def merge_rest(self, vm: Vm, seconds: float) -> None:
        """See `Host.merge_rest`: the host merges by itself once the VM is off, and goes on after it was started."""
        deadline = time.monotonic() + seconds
        gone: set[str] = set()
        while True:
            self.forget()
            found = self.ask("merged", vm)
            if not found["merging"] and not found["left"]:
                return
            # One that a merge has just deleted is named no more at the next look.
            before, gone = gone, set() if found["merging"] else set(found["missing"])
            for file in sorted(before & gone):
                raise layout.deleted(self, vm.name, file)
            if time.monotonic() > deadline:
                text = f"host {self.name} still merges disks of {vm.name}: {', '.join(found['left'])}"
                raise error(Code.BUSY, text, host=self.name)
            time.sleep(MERGE_TICK)

    def snapshot_files(self, vm: Vm, snapshots: list[str]) -> dict[str, dict[int, str]]:
        """See `Host.snapshot_files`."""
        checkpoints = self.state(vm).devices["checkpoints"]
        return {
            each["id"]: {drive.key: drive.file for drive in machine.drives_of(each["drives"])}
            for each in checkpoints
            if each["id"] in snapshots
        }

    def stored_bytes(self, vm: Vm) -> dict[str, int]:
        """See `Host.stored_bytes`."""
        said = self.look_at(vm)
        links = [each for checkpoint in said["checkpoints"] for each in checkpoint["drives"]]
        return {each["path"]: each["length"] for each in (*said["drives"], *links)}

    def mark(self, vm: Vm, point_id: UUID) -> None:
        """See `Host.mark`."""
        said = self.look_at(vm)["machine"]["notes"] or ""
        self.do("notes", vm, notes=machine.marked(said, point_id))

    def rename(self, vm: Vm, name: str) -> None:
        """See `Host.rename`."""
        self.do("configure", vm, name=name)

    def power_on(self, vm: Vm) -> None:
        """See `Host.power_on`."""
        self.do("start", vm, ACT_TIMEOUT)

    def tell_addresses(self, vm: Vm, nic: Nic, deadline: float) -> str | None:
        """See `Host.tell_addresses`."""
        return addresses.tell(self, vm, nic, deadline)

    def power_off(self, vm: Vm) -> None:
        """See `Host.power_off`."""
        self.do("stop", vm, ACT_TIMEOUT)

    def destroy(self, vm: Vm) -> None:
        """See `Host.destroy`.

        The host would merge the checkpoints' files once their VM is gone (Remove-VM's reference), which may take hours:
        so they go before. It leaves the folders that its own files were in, and the cluster leaves the VM's role.
        """
        if self.cluster() is not None:
            set_role(session_of(vm), vm.id, add=False)
        state = self.state(vm)
        links = [drive for each in state.devices["checkpoints"] for drive in machine.drives_of(each["drives"])]
        for file in sorted({drive.file for drive in (*state.drives, *links)}):
            if self.parent(file) == vm.folder:
                self.store_of(vm).delete(file)
        self.do("remove", vm, ACT_TIMEOUT)
        if vm.directory is not None:
            for name in FOLDERS:
                self.store_of(vm).drop_empty(self.join(vm.directory, name))

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
        return fitting.grow(self, before, disks)

    def drop(self, before: Snapshot, layers: Sequence[journal.LayerEntry]) -> None:
        """See `Host.drop`."""
        fitting.drop(self, before, layers)

    def rehang(self, before: Snapshot, state: State) -> None:
        """See `Host.rehang`."""
        fitting.rehang(self, before, state)

    def make_test(self, before: Snapshot, replica: Replica, point: journal.PointEntry, test: TestPlan) -> Vm:
        """See `Host.make_test`."""
        return creation.make_test(self, before, replica, point, test)

    def end_test(self, vm: Vm) -> None:
        """See `Host.end_test`."""
        creation.end_test(self, vm)

    def end_writers(self, file: str) -> None:
        """See `Host.end_writers`: the host itself ends whatever holds the file over SMB, wherever it runs."""
        self.forget()
        for session in self.sessions():
            session.call("close", {"path": file})

    def writer(self, disk: Disk, number: int, explain: Callable[[], NoReturn]) -> data.HyperVWriter:  # noqa: ARG002
        """See `Host.writer`."""
        return data.open_writer(self, disk, explain)

    def reader(self, disk: Disk) -> data.HyperVReader:
        """See `Host.reader`."""
        return data.open_reader(self, disk)

    def served(self, disk: Disk, *, writable: bool = False) -> AbstractContextManager[str]:
        """See `Host.served`."""
        return data.served(self, disk, writable=writable)
