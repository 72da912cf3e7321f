"""RUNBOOK.txt of a standby on Hyper-V."""

from __future__ import annotations

#: How to start any point by hand; see `snapshots.runbook`.
RUNBOOK = """\
RUNBOOK of the standby VM {vm} (job {job})
Folder {directory}

Each boot point is a checkpoint of the VM, of the same name. To start from one, without bootpoint:

  in Hyper-V Manager   the VM {vm} > Checkpoints > choose the point > Apply..., then Start
  in PowerShell        Get-VMSnapshot -VMName '{vm}'
                       Restore-VMSnapshot -VMName '{vm}' -Name POINT -Confirm:$false
                       Start-VM -Name '{vm}'

Applying a checkpoint throws away what the VM wrote since it was started last; make a checkpoint first if that is to be
kept. The points themselves stay as they are. Don't delete checkpoints that are named below: bootpoint would lose those
points. Don't start the VM while its status is "Merging disks": the merge begins anew then.
Before the source is replicated again, stop the VM: `bootpoint vm stop`, or turn it off.

With bootpoint, but without its database and workers, on any machine that reaches this host:

  bootpoint vm start '{vm}' POINT --direct --kind hyperv --address HOST --user USER --ask-password

Boot points, newest first:
{points}
{machine}"""
