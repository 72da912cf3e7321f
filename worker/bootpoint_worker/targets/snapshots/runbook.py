"""RUNBOOK.txt: how to start any point by hand, for the day when nothing else is left."""

from __future__ import annotations

from bootpoint_common.units import format_size
from bootpoint_worker.targets.snapshots import journal
from bootpoint_worker.targets.snapshots.addressing import words
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.place import Snapshot

#: Its name in the VM's folder.
NAME = "RUNBOOK.txt"


def write(host: Host, before: Snapshot) -> None:
    """Write the runbook of a replica beside its journal."""
    host.step("runbook:write")
    written = text(host.runbook, before.manifest, before.vm.folder)
    before.store.put(host.join(before.vm.folder, NAME), written.encode())


def text(template: str, manifest: journal.Manifest, directory: str) -> str:
    """Return the runbook.

    Args:
        template: The host's own text; see `Host.runbook`.
        manifest: The replica's journal.
        directory: Path of the VM's folder on the host.
    """
    points = [
        f"    {point.name}  {point.instant:%Y-%m-%d %H:%M:%S} UTC  {point.kind}, "
        f"{format_size(sum(disk.stored_bytes for disk in point.disks))} stored"
        for point in reversed(manifest.points)
    ]
    replica = manifest.replica
    return template.format(
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
    known = [nic for nic in manifest.replica.nics if nic.addressing.addresses]
    lines += [f"Set by hand, where it doesn't have them: card {nic.mac}: {words(nic.addressing)}." for nic in known]
    return "\n".join(["", *lines, ""]) if lines else ""
