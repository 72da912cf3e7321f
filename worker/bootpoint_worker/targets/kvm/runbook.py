"""RUNBOOK.txt: the shell lines that start any point without bootpoint, for the day when nothing else is left."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from uuid import UUID

from bootpoint_common.units import format_size
from bootpoint_worker.targets.kvm import domain, journal
from bootpoint_worker.targets.kvm.qcow2 import disk_name

#: Label of the scratch layers that the runbook makes; by it they are found afterwards.
LABEL = "runbook-"

_HEADER = """\
RUNBOOK of the standby VM {vm} (job {job})
Directory {directory}

Each block below starts the VM from one boot point with qemu-img and virsh alone: no bootpoint, no database, no broker.
Log in to this host as root and paste ONE block, from its BEGIN to its END, into a shell.
The boot points themselves are never written to: the VM writes into files of its own beside them, and starting the
same block again goes on with those. Stop the VM first when you change to another point:
    virsh -c qemu:///system destroy {vm}

Boot points, newest first:
{points}
{standing}{branches}{machine}"""

_BLOCK = """
# BEGIN {name}
(
set -eu
cd {directory}
{overlays}
cat >{xml_file} <<'END-OF-DEFINITION'
{xml}END-OF-DEFINITION
virsh -c "${{LIBVIRT_DEFAULT_URI:-qemu:///system}}" define {xml_file}
virsh -c "${{LIBVIRT_DEFAULT_URI:-qemu:///system}}" start --force-boot {vm}
)
# END {name}
"""


def runbook_text(directory: str, manifest: journal.Manifest, definitions: Mapping[UUID, domain.Definition]) -> str:
    """Write the runbook.

    Args:
        directory: The replica's directory.
        manifest: Its journal.
        definitions: For each point the definition whose disks are the runbook's scratch layers, by point id.
    """
    points = list(reversed(manifest.points))
    lines = [
        f"    {point.name}  {point.instant:%Y-%m-%d %H:%M:%S} UTC  {point.kind}, "
        f"{format_size(sum(disk.stored_bytes for disk in point.disks))} stored"
        for point in points
    ]
    standing = ""
    if manifest.standby is not None and manifest.standby.held and (on := manifest.point(manifest.standby.point_id)):
        standing = (
            f"{manifest.replica.vm_name} was reverted to {on.name}, and its definition stays there while newer points\n"
            "are committed. To let it follow the newest again: bootpoint vm revert ... latest\n"
        )
    branches = [f"    {branch.file} (above {branch.base or 'a point'})" for branch in manifest.branches]
    if branches:
        branches.insert(0, "Kept changes of earlier starts, to be looked at and deleted by you:")
    header = _HEADER.format(
        vm=manifest.replica.vm_name,
        job=manifest.replica.job,
        directory=directory,
        points="\n".join(lines),
        standing=standing,
        branches="\n".join(branches) + "\n" if branches else "",
        machine=_machine(manifest),
    )
    vm = shlex.quote(manifest.replica.vm_name)
    return header + "".join(_block(directory, point, definitions[point.point_id], vm) for point in points)


def _machine(manifest: journal.Manifest) -> str:
    """Return what is to be known of a machine that starts unconverted, as it does here."""
    profile = manifest.profile
    if profile is None:
        return ""
    lines = []
    if profile.bus is not None or profile.nic_model is not None:
        bus = profile.bus or "the job's bus"
        lines.append(f"The machine starts as its source left it, on hardware that it knows from there: {bus}.")
    if profile.loader is not None:
        path = profile.loader.replace("/", "\\")
        lines.append(
            "The firmware of a new VM does not find its boot loader by itself. In the firmware's shell, on the"
        )
        lines.append(f"VM's screen, type:  FS0:\\{path}")
    lines += [f"Known problem: {problem.text}." for problem in profile.problems]
    return "\n".join(["", *lines, ""]) if lines else ""


def _block(directory: str, point: journal.PointEntry, definition: domain.Definition, vm: str) -> str:
    files = {disk.path.rsplit("/", 1)[-1]: None for disk in definition.disks}
    overlays = []
    for disk, file in zip(_ordered(point, list(files)), files, strict=True):
        overlays.append(
            f"[ -e {shlex.quote(file)} ] || "
            f"qemu-img create -q -f qcow2 -F qcow2 -b {shlex.quote(disk.file)} {shlex.quote(file)}"
        )
    return _BLOCK.format(
        name=point.name,
        directory=shlex.quote(directory),
        overlays="\n".join(overlays),
        xml_file=shlex.quote(f"{LABEL}{point.name}.xml"),
        xml=domain.domain_xml(definition),
        vm=vm,
    )


def _ordered(point: journal.PointEntry, files: list[str]) -> list[journal.LayerEntry]:
    """Return the point's disks in the order of the runbook's files, which begin with the disks' names."""
    by_name = {disk_name(disk.file): disk for disk in point.disks}
    return [by_name[file.split(f".scratch-{LABEL}", 1)[0]] for file in files]
