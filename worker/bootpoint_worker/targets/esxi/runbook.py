"""RUNBOOK.txt: how to start any point by hand, for the day when nothing else is left."""

from __future__ import annotations

from bootpoint_common.units import format_size
from bootpoint_worker.targets.esxi import journal
from bootpoint_worker.targets.esxi.datastore import join
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.esxi.place import Snapshot

#: Its name in the VM's folder.
NAME = "RUNBOOK.txt"

_TEXT = """\
RUNBOOK of the standby VM {vm} (job {job})
Folder {directory}

Each boot point is a snapshot of the VM, of the same name. To start from one, without bootpoint:

  in the vSphere Client   VM {vm} > Actions > Snapshots > Manage snapshots > choose the point > Revert, then Power on
  on the host, by SSH     vim-cmd vmsvc/getallvms | grep -F '{vm}'          the first number is the VM's id
                          vim-cmd vmsvc/snapshot.get ID                     each snapshot with its number
                          vim-cmd vmsvc/snapshot.revert ID NUMBER true      true: it stays off
                          vim-cmd vmsvc/power.on ID

A revert throws away what the VM wrote since it was started last; make a snapshot first if that is to be kept. The
points themselves stay as they are. Don't remove snapshots that are named below: bootpoint would lose those points.
Before the source is replicated again, stop the VM: `bootpoint vm stop`, or power it off.

Boot points, newest first:
{points}
{machine}"""


def write(host: Host, before: Snapshot) -> None:
    """Write the runbook of a replica beside its journal."""
    host.step("runbook:write")
    before.store.put(join(before.vm.directory, NAME), text(before.manifest, before.vm.directory).encode())


def text(manifest: journal.Manifest, directory: str) -> str:
    """Return the runbook.

    Args:
        manifest: The replica's journal.
        directory: Datastore path of the VM's folder.
    """
    points = [
        f"    {point.name}  {point.instant:%Y-%m-%d %H:%M:%S} UTC  {point.kind}, "
        f"{format_size(sum(disk.stored_bytes for disk in point.disks))} stored"
        for point in reversed(manifest.points)
    ]
    replica = manifest.replica
    return _TEXT.format(
        vm=replica.vm_name,
        job=replica.job,
        directory=directory,
        points="\n".join(points) or "    none yet",
        machine=_machine(manifest),
    )


def _machine(manifest: journal.Manifest) -> str:
    """Return what is to be known of where the VM stands, and of a machine that starts as its source left it."""
    lines = []
    standby, profile = manifest.standby, manifest.profile
    if standby is not None and standby.held and (point := manifest.point(standby.point_id)) is not None:
        lines.append(f"The VM was reverted to {point.name}, and goes back there after each new point.")
    if profile is not None and (profile.bus or profile.nic_model):
        lines.append(f"It boots on hardware that its source knows: {profile.bus or 'the bus of the job'}.")
    lines += [f"Known problem: {problem.text}." for problem in profile.problems] if profile is not None else []
    return "\n".join(["", *lines, ""]) if lines else ""
