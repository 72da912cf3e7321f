"""RUNBOOK.txt of a standby on vSphere."""

from __future__ import annotations

#: How to start any point by hand; see `snapshots.runbook`.
RUNBOOK = """\
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

With bootpoint, but without its database and workers, on any machine that reaches this host:

  bootpoint vm start '{vm}' POINT --direct --kind esxi --address HOST --user USER --ask-password

Boot points, newest first:
{points}
{machine}"""
