"""The service that has the VMs: Virtual Machine Management Service."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from tests.hyperv import checkpoint, fault
from tests.hyperv.front import VhdxError
from tests.hyperv.guest import Guest
from tests.hyperv.holding import InUseError, Sharing
from tests.hyperv.machine import Heartbeat, Machine, Snapshot, State
from tests.hyperv.part import Card, Controller, Drive

if TYPE_CHECKING:
    from tests.hyperv.host import Host
    from tests.hyperv.wmi import Job

#: Most networks' cards get addresses from here: Microsoft's range, then three bytes of the host.
MAC_PREFIX = "00155D"


class Vmms:
    """The VMs of a host.

    Args:
        host: Which one.

    Attributes:
        machines: All of them, in the order in which they were made.
        jobs: What it does in the background, and has done.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.machines: list[Machine] = []
        self.jobs: list[Job] = []

    def create(self, name: str, above: str, generation: int) -> Machine:
        """Make a VM in a folder of its name below another, which needn't be there (New-VM, -Path).

        One of the first generation has a DVD drive, and each a card that isn't connected.
        """
        host = self._host
        folder = str(PureWindowsPath(above) / name)
        machine = Machine(name, folder, generation, host.guise.configuration, host.name)
        settings = machine._settings
        settings.notes = ""
        settings.cards.append(Card("Network Adapter", "000000000000", True, None, is_legacy=False))
        if generation == 1:
            settings.dvds.append(Drive(Controller.IDE, 1, 0, ""))
        else:
            settings.firmware.boot_order = [*settings.cards]
        machine._own()
        self.machines.append(machine)
        self.describe(machine)
        return machine

    def find(self, vm_id: object) -> Machine | None:
        """Return a VM by its id; None when there is none."""
        return next((each for each in self.machines if str(each.id) == str(vm_id)), None)

    def delete(self, machine: Machine) -> None:
        """Forget a VM, and delete what describes it. Files of its disks stay; those of its checkpoints are merged.

        See Remove-VM's reference: "does not delete any virtual hard drives. If the virtual machine has any snapshots,
        these are deleted and merged after the virtual machine is deleted." What a removed checkpoint alone had is
        deleted, too.
        """
        for each in list(machine._snapshots):
            checkpoint.remove(self._host, each)
        self.machines.remove(machine)
        machine.state = State.Off
        for path in self._descriptions(machine):
            path.unlink(missing_ok=True)

    # --- running

    def power_on(self, machine: Machine) -> None:
        """Start a VM: a merge of its disks is cancelled.

        Raises:
            Failure: A file of its disks is in use, or can't be used.
        """
        if machine.state is State.Running:
            raise fault.wrong_state("Start-VM", machine.name)
        self._need_memory(machine)
        for drive in machine._settings.drives:
            self._try(drive.path)
        machine.state = State.Running
        well = Heartbeat.NoContact if self._host.runs_guests else Heartbeat.OkApplicationsUnknown
        machine.heartbeat = self._host.trouble.heartbeat or well
        machine._silent_looks, machine._told = self._host.trouble.silent_looks, {}
        self._host.merger.wait_for(machine)
        try:
            if self._host.runs_guests:
                machine._guest = Guest(self._host, machine)
                machine._guest.start()
            self.hold(machine, "Start-VM")
        except BaseException:
            self._set_off(machine)
            raise

    def _need_memory(self, machine: Machine) -> None:
        running = sum(each.memory_startup for each in self.machines if each.state is State.Running)
        if running + machine.memory_startup > self._host.memory:
            # Event 3030 of Hyper-V-VMMS, error 0x8007000E.
            text = f"Not enough memory in the system to start the virtual machine {machine.name}. (0x8007000E)."
            raise fault.refused("Start-VM", text, "OutOfMemory", "ResourceUnavailable")

    def _try(self, path: str) -> None:
        if not self._host.locate(path).exists():
            raise fault.no_file("Start-VM", path)
        try:
            self._host.check_chain(self._host.locate(path))
        except VhdxError as exc:
            raise fault.bad_disk("Start-VM", path, exc) from exc

    def power_off(self, machine: Machine) -> None:
        """Turn a VM off; merges that wait for it begin."""
        self.let_go(machine)
        self._set_off(machine)
        self._host.merger.ask(machine)

    def look(self) -> None:
        """Turn those VMs off whose guests have shut themselves down."""
        for each in self.machines:
            if each._guest is not None and each._guest.ended:
                self.power_off(each)

    def _set_off(self, machine: Machine) -> None:
        if machine._guest is not None:
            machine._guest.stop()
            machine._guest = None
        machine.state = State.Off
        machine.heartbeat = None

    def hold(self, machine: Machine, command: str) -> None:
        """Open the files of a VM that runs.

        Raises:
            Failure: Somebody else has one open.
        """
        if machine.state is not State.Running:
            return
        leaves = {self._host.locate(drive.path) for drive in machine._settings.drives}
        needed = [(path, Sharing.ALONE) for path in leaves]
        needed += [(path, Sharing.READING) for leaf in leaves for path in self._host.chain_below(leaf)]
        try:
            for path, sharing in needed:
                machine._holds.append(self._host.holds.take(path, sharing))
        except InUseError as exc:
            self.let_go(machine)
            raise fault.in_use(command, self._host.name_of(Path(str(exc)))) from exc

    def let_go(self, machine: Machine) -> None:
        """Close the files of a VM."""
        for each in machine._holds:
            self._host.holds.release(each)
        machine._holds.clear()

    def rehold(self, machine: Machine, command: str) -> None:
        """Have open what a VM that runs has now."""
        self.let_go(machine)
        self.hold(machine, command)

    def cut(self) -> None:
        """Let all VMs be off, as after a power cut of the host."""
        for each in self.machines:
            each._ran = each.state is State.Running
            each._holds.clear()
            self._set_off(each)

    def start_up(self) -> None:
        """Start the VMs that are to be started with the host (Set-VM, -AutomaticStartAction)."""
        for each in self.machines:
            action = each.automatic_start_action
            if action == "Start" or (action == "StartIfRunning" and each._ran):
                self.power_on(each)
            else:
                self._host.merger.ask(each)

    # --- descriptions

    def describe(self, machine: Machine) -> None:
        """Write the files that describe a VM and its checkpoints; what they say is nobody's business."""
        wanted = self._descriptions(machine)
        for path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{machine.id}\n")
        for path in (self._host.locate(machine.path) / "Snapshots").glob(f"{machine.id}.*".upper()):
            if path not in wanted:
                path.unlink()

    def _descriptions(self, machine: Machine) -> list[Path]:
        suffix = "vmcx" if self._host.guise.binary_configuration else "xml"
        folder = self._host.locate(machine.path)
        snapshots = (f"{machine.id}.{each.id}.{suffix}".upper() for each in machine._snapshots)
        own = folder / "Virtual Machines" / f"{machine.id}.{suffix}".upper()
        return [own, *(folder / "Snapshots" / name for name in snapshots)]

    def snapshots(self) -> list[Snapshot]:
        """Return all checkpoints of all VMs."""
        return [each for machine in self.machines for each in machine._snapshots]
