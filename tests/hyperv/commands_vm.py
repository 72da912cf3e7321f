"""Commands about VMs and their checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from uuid import UUID

from tests.hyperv import checkpoint, fault
from tests.hyperv.command import command, machines, many, number, off, text
from tests.hyperv.machine import Machine, Snapshot, State
from tests.hyperv.part import Settings
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.value import PSObject

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Least memory of a VM, in bytes: what New-VM and Set-VM take.
LEAST_MEMORY = 32 * 1024 * 1024

#: Parameters of Set-VM that are taken as they are, and what they are here.
_PLAIN = {
    "Notes": "notes",
    "ProcessorCount": "processor_count",
    "MemoryStartupBytes": "memory_startup",
    "AutomaticStartAction": "automatic_start_action",
    "AutomaticStopAction": "automatic_stop_action",
    "AutomaticStartDelay": "automatic_start_delay",
    "CheckpointType": "checkpoint_type",
    "AutomaticCheckpointsEnabled": "automatic_checkpoints_enabled",
}

#: Those that a running VM doesn't take.
_WHILE_OFF = ("ProcessorCount", "MemoryStartupBytes", "DynamicMemory", "StaticMemory")


@command("Get-VM")
def get_vm(host: Host, call: Call) -> object:
    """List VMs by their names; all when none is named."""
    if "Id" in call:
        found = host.vmms.find(cast(UUID, call["Id"]))
        if found is None:
            raise fault.no_machine("Get-VM", f'id "{call["Id"]}"')
        return found
    if "Name" in call:
        return machines(host, call)
    if host.trouble.deleting:
        raise fault.no_service("Get-VM", host.name)
    return sorted(host.vmms.machines, key=lambda each: each.name.lower())


@command("New-VM")
def new_vm(host: Host, call: Call) -> object:
    """Make a VM; names needn't be unique."""
    name = text(call, "Name", "New Virtual Machine")
    if not name or any(letter in name for letter in '\\/:*?"<>|'):
        raise fault.invalid("New-VM", f"'{name}' can't be the name of a virtual machine.")
    switch = call.get("SwitchName", None)
    if switch is not None and switch not in host.switches:
        raise fault.invalid("New-VM", f'Hyper-V was unable to find a virtual switch with name "{switch}".')
    memory = number(call, "MemoryStartupBytes", 1024**3)
    _check_memory(call, memory)
    above = text(call, "Path", "C:\\ProgramData\\Microsoft\\Windows\\Hyper-V")
    made = host.vmms.create(name, above, number(call, "Generation", 1))
    made._settings.memory_startup = memory
    made._settings.cards[0].switch_name = switch
    if host.guise.commands is None or not host.guise.binary_configuration:
        made._settings.checkpoint_type = "Standard"
    return made


def _check_memory(call: Call, size: int) -> None:
    if size < LEAST_MEMORY or size % (1024 * 1024):
        raise fault.invalid(call.command, f"The memory size {size} is out of range, or not a whole number of MB.")


@command("Set-VM")
def set_vm(host: Host, call: Call) -> object:
    """Change what was given, and nothing else."""
    changed = machines(host, call)
    for machine in changed:
        if any(name in call for name in _WHILE_OFF):
            off(call, machine)
        _set(call, machine._settings)
        if "NewVMName" in call:
            machine.name = text(call, "NewVMName")
            machine._own()
        if "SnapshotFileLocation" in call:
            machine.snapshot_file_location = text(call, "SnapshotFileLocation")
    return changed if call.switched("Passthru") else None


def _set(call: Call, settings: Settings) -> None:
    if "MemoryStartupBytes" in call:
        _check_memory(call, number(call, "MemoryStartupBytes"))
    if "ProcessorCount" in call and not 1 <= number(call, "ProcessorCount") <= 64:
        raise fault.invalid(call.command, f"'{call['ProcessorCount']}' isn't a number of virtual processors.")
    for parameter, attribute in _PLAIN.items():
        if parameter in call:
            setattr(settings, attribute, call[parameter])
    if call.switched("StaticMemory") or call.switched("DynamicMemory"):
        settings.dynamic_memory_enabled = call.switched("DynamicMemory")


@command("Rename-VM")
def rename_vm(host: Host, call: Call) -> object:
    """Give a VM another name; its files stay where they are."""
    changed = machines(host, call)
    for machine in changed:
        machine.name = text(call, "NewName")
        machine._own()
    return changed if call.switched("Passthru") else None


@command("Remove-VM")
def remove_vm(host: Host, call: Call) -> object:
    """Delete VMs that are off."""
    for machine in machines(host, call):
        off(call, machine)
        host.vmms.delete(machine)
    return None


@command("Start-VM")
def start_vm(host: Host, call: Call) -> object:
    """Start VMs; one that runs already is a warning."""
    for machine in machines(host, call):
        if machine.state is not State.Running:
            host.vmms.power_on(machine)
    return None


@command("Stop-VM")
def stop_vm(host: Host, call: Call) -> object:
    """Turn VMs off, or ask their guests; one that is off already is a warning."""
    for machine in machines(host, call):
        if machine.state is State.Running:
            if not call.switched("TurnOff") and host.trouble.deaf_guests:
                text_ = f"The device is not ready for use: the guest of '{machine.name}' does not answer."
                raise fault.refused("Stop-VM", text_, category="DeviceError")
            host.vmms.power_off(machine)
    return None


@command("Remove-VMSavedState")
def remove_vm_saved_state(host: Host, call: Call) -> object:
    """Turn VMs off whose state was saved, and throw that away."""
    for machine in machines(host, call):
        if machine.state is not State.Saved:
            raise fault.wrong_state(call.command, machine.name)
        machine.state = State.Off
    return None


# --- checkpoints


@command("Checkpoint-VM")
def checkpoint_vm(host: Host, call: Call) -> object:
    """Make a checkpoint of each VM, by default with the time in its name."""
    made = []
    for machine in machines(host, call):
        name = text(call, "SnapshotName", f"{machine.name} - (1/1/2025 - 12:00:00 PM)")
        made.append(checkpoint.make(host, machine, name))
    return made if call.switched("Passthru") else None


@command("Get-VMSnapshot")
def get_vm_snapshot(host: Host, call: Call) -> object:
    """List checkpoints, oldest first."""
    if "Id" in call:
        found = [each for each in host.vmms.snapshots() if str(each.id) == str(call["Id"])]
        if not found:
            raise fault.invalid("Get-VMSnapshot", f"Hyper-V was unable to find a checkpoint with id {call['Id']}.")
        return found
    if "ParentOf" in call:
        return cast(Machine | Snapshot, call["ParentOf"])._parent
    if "ChildOf" in call:
        return [each for each in host.vmms.snapshots() if each._parent is call["ChildOf"]]
    named = text(call, "Name").lower()
    every = [each for machine in _of(host, call) for each in machine._snapshots]
    return [each for each in every if not named or each.name.lower() == named]


def _of(host: Host, call: Call) -> list[Machine]:
    """Return the VMs of a call whose ``-Name`` is a checkpoint's."""
    if "VM" in call:
        return machines(host, call)
    named = [str(each).lower() for each in many(call.get("VMName", None))]
    return [each for each in host.vmms.machines if each.name.lower() in named]


def _snapshots(host: Host, call: Call) -> list[Snapshot]:
    """Return the checkpoints that a call is about.

    Raises:
        Failure: One isn't there any more.
    """
    if "VMSnapshot" not in call:
        names = [str(each).lower() for each in many(call["Name"])]
        return [each for machine in _of(host, call) for each in machine._snapshots if each.name.lower() in names]
    given = cast(list[Snapshot], many(call["VMSnapshot"]))
    for each in given:
        if each not in host.vmms.snapshots():
            raise fault.invalid(call.command, f"Hyper-V was unable to find the checkpoint '{each.name}'.")
    return given


@command("Restore-VMSnapshot")
def restore_vm_snapshot(host: Host, call: Call) -> object:
    """Let a VM be what it was."""
    restored = _snapshots(host, call)
    for each in restored:
        checkpoint.restore(host, each)
    return restored if call.switched("Passthru") else None


@command("Remove-VMSnapshot")
def remove_vm_snapshot(host: Host, call: Call) -> object:
    """Remove checkpoints, and with -IncludeAllChildSnapshots what stands above them."""
    for each in _snapshots(host, call):
        for one in _with_children(each) if call.switched("IncludeAllChildSnapshots") else [each]:
            checkpoint.remove(host, one)
    return None


def _with_children(snapshot: Snapshot) -> list[Snapshot]:
    children = [each for each in snapshot._machine._snapshots if each._parent is snapshot]
    return [one for each in children for one in _with_children(each)] + [snapshot]


# --- the host


@command("Get-VMHost")
def get_vm_host(host: Host, _: Call) -> object:
    """Return what Hyper-V has of the host."""
    return PSObject.of(
        Name=host.name,
        ComputerName=host.name,
        LogicalProcessorCount=host.processors,
        MemoryCapacity=host.memory,
        VirtualHardDiskPath="C:\\Users\\Public\\Documents\\Hyper-V\\Virtual Hard Disks",
        VirtualMachinePath="C:\\ProgramData\\Microsoft\\Windows\\Hyper-V",
    )
