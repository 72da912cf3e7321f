"""Checkpoints of VMs: made, gone back to, removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.hyperv import avhdx, fault
from tests.hyperv.front import VhdxError
from tests.hyperv.holding import InUseError
from tests.hyperv.machine import Machine, Snapshot, State, leaf_path
from tests.hyperv.merging import Chains
from tests.hyperv.part import Settings

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Most checkpoints of a VM ("Plan for Hyper-V scalability in Windows Server").
MOST = 50


def make(host: Host, machine: Machine, name: str) -> Snapshot:
    """Make a checkpoint: what the VM writes from now on goes to new files.

    Raises:
        Failure: There are too many; a file is in use, or can't be used; the VM merges.
    """
    command = "Checkpoint-VM"
    if machine._merging:
        raise fault.wrong_state(command, machine.name)
    if machine.checkpoint_type == "Disabled":
        # Set-VM's reference, -CheckpointType: "Disabled: block creation of checkpoints."
        raise fault.refused(command, f"Checkpoints have been disabled for '{machine.name}'.", "InvalidOperation")
    if len(machine._snapshots) >= MOST:
        raise fault.refused(command, f"'{machine.name}' has reached the maximum number of {MOST} checkpoints.")
    made = Snapshot(machine, name)
    host.vmms.let_go(machine)
    leaves = _new_leaves(host, command, machine._settings)
    for drive, leaf in zip(machine._settings.drives, leaves, strict=True):
        drive.path = leaf
    machine._snapshots.append(made)
    machine._parent = made
    host.vmms.describe(machine)
    host.vmms.hold(machine, command)
    return made


def restore(host: Host, snapshot: Snapshot) -> None:
    """Let a VM be what it was when a checkpoint was made: its disks get new files, those it wrote since are deleted.

    Its name stays; all else that a checkpoint keeps comes back, the notes too (they are of
    Msvm_VirtualSystemSettingData). A VM that runs is ended, and takes the checkpoint's state ("Why does Hyper-V save my
    running VM when I revert to a checkpoint that was taken when it was shut down?", Server Fault).

    Raises:
        Failure: The VM merges, or a file is in use.
    """
    command, machine = "Restore-VMSnapshot", snapshot._machine
    if machine._merging:
        raise fault.wrong_state(command, machine.name)
    if machine.state is State.Running:
        host.vmms.power_off(machine)
    before = set(Chains(host, machine).parents())
    wanted = snapshot._settings.copied()
    abandoned = _abandoned(host, machine)
    for path in abandoned:
        _probe(host, command, path)
    leaves = _new_leaves(host, command, wanted)
    for drive, leaf in zip(wanted.drives, leaves, strict=True):
        drive.path = leaf
    machine._settings = wanted
    machine._parent = snapshot
    machine._own()
    for path in Chains(host, machine).unneeded(before):
        path.unlink()
    host.vmms.describe(machine)


def remove(host: Host, snapshot: Snapshot) -> None:
    """Remove a checkpoint; its files are merged afterwards."""
    machine = snapshot._machine
    before = set(Chains(host, machine).parents())
    machine._snapshots.remove(snapshot)
    machine._left |= {host.locate(drive.path) for drive in snapshot._settings.drives}
    for each in machine._snapshots:
        if each._parent is snapshot:
            each._parent = snapshot._parent
    if machine._parent is snapshot:
        machine._parent = snapshot._parent
    for path in Chains(host, machine).unneeded(before):
        path.unlink()
    host.vmms.describe(machine)
    host.merger.ask(machine)


def _abandoned(host: Host, machine: Machine) -> list[Path]:
    """Return the VM's own topmost files, which no checkpoint has."""
    kept = {host.locate(drive.path) for each in machine._snapshots for drive in each._settings.drives}
    return [path for path in (host.locate(drive.path) for drive in machine._settings.drives) if path not in kept]


def _new_leaves(host: Host, command: str, settings: Settings) -> list[str]:
    """Make a file above each disk's; none is left when one can't be made."""
    made: list[str] = []
    try:
        for drive in settings.drives:
            path, leaf = host.locate(drive.path), leaf_path(drive.path)
            _probe(host, command, path)
            try:
                host.check_chain(path)
                avhdx.create_child(host.locate(leaf), path, windows_path=drive.path)
            except VhdxError as exc:
                raise fault.bad_disk(command, drive.path, exc) from exc
            made.append(leaf)
    except BaseException:
        for leaf in made:
            host.locate(leaf).unlink()
        raise
    return made


def _probe(host: Host, command: str, path: Path) -> None:
    if not path.exists():
        raise fault.no_file(command, host.name_of(path))
    try:
        host.holds.probe(path)
    except InUseError as exc:
        raise fault.in_use(command, host.name_of(path)) from exc
