"""Looking into a point: what machine is on its disks, and what starting it here takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.conversion.device import Devices, mount_points
from bootpoint_worker.conversion.disk import MOUNTED, DiskLayout, Partition, read_layout
from bootpoint_worker.conversion.guest import Guest, read_collection, shown
from bootpoint_worker.conversion.plan import Machine, Means, candidates, decide
from bootpoint_worker.targets.guest import Problem, Profile
from bootpoint_worker.targets.kvm import journal, standby
from bootpoint_worker.targets.kvm.conversion import layer, step
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.kvm.conversion.step import Mount
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.inspect import has_uefi
from bootpoint_worker.targets.kvm.means import means_of
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.reader import open_file
from bootpoint_worker.targets.replica import Replica

#: Most partitions that are tried as a root file system.
MOST_TRIES = 8

#: What of a profile the standby's definition and the runbook show.
_HARDWARE = ("bus", "nic_model", "firmware", "loader", "boot_disk")

#: File systems of their own that belong to the light route.
_BELOW = ("boot", "var")


def examine(host: Host, replica: Replica, point_id: UUID) -> Profile:
    """Look into a point and keep what was found in the journal; see `Target.examine`."""
    place = host.place(replica)
    profile = place.retried(lambda: _examined(host, place, replica, point_id))
    host.step("examine:journal")
    if place.retried(lambda: _kept(host, place, replica, profile)):
        host.step("examine:remake")
        standby.remake(host, place, replica)
    return profile


def _examined(host: Host, place: Place, replica: Replica, point_id: UUID) -> Profile:
    before = host.must_read(place, replica)
    point = before.manifest.must_have(point_id, host=host.name)
    host.step("examine:look")
    work = layer.begin(place, before, point, layer.EXAMINE)
    try:
        return profile_of(host, work, before.manifest.replica)[1]
    finally:
        layer.end(place, layer.EXAMINE)


def _kept(host: Host, place: Place, replica: Replica, profile: Profile) -> bool:
    """Write a profile into the journal; tells whether it changes the standby's hardware or the runbook."""
    before = host.must_read(place, replica)
    after = msgspec.structs.replace(before.manifest, profile=profile)
    place.change("sweep", before, after, what="keep the profile")
    old = before.manifest.profile or Profile(point_id=profile.point_id, made_at=profile.made_at)
    return any(getattr(old, name) != getattr(profile, name) for name in _HARDWARE)


def profile_of(
    host: Host, work: Work, replica: Replica, means: Means | None = None
) -> tuple[Machine, Profile, tuple[Mount, ...]]:
    """Return what is on the disks, what it takes, and how the guest's file systems are mounted.

    Args:
        host: Where the work is done.
        work: The layers.
        replica: The standby.
        means: What may be used; None for all that the host has.
    """
    means = means or means_of(host)
    machine, mounts = look(host, work, means)
    profile = decide(work.point.point_id, machine, means, bus=bus_of(replica, machine), nics=replica.nics)
    if profile.firmware == "uefi" and replica.firmware != "uefi" and not has_uefi(host):
        problem = Problem("it boots by UEFI, and the host has no such firmware: install ovmf", bootable=False)
        profile = replace(profile, firmware=None, problems=(*profile.problems, problem))
    return machine, profile, mounts


def bus_of(replica: Replica, machine: Machine) -> str:
    """Return the bus that the job gives the disk with the machine's root."""
    buses = {disk.slot: disk.bus for disk in replica.disks}
    first = replica.disks[0].bus if replica.disks else "virtio"
    return first if machine.root is None else buses.get(machine.root[0], first)


def look(host: Host, work: Work, means: Means) -> tuple[Machine, tuple[Mount, ...]]:
    """Look at the disks of a conversion, and into the guest if the host has the means."""
    layouts = tuple(_layout(host, work.place, disk) for disk in _ordered(work))
    if means.light:
        return Machine(layouts, declined=means.light), ()
    listing = _listing(host, work, layouts, means)
    declined = ""
    for slot, part in candidates(layouts)[:MOST_TRIES]:
        try:
            found = _guest(host, work, layouts, Mount(slot, part))
        except ValueError as why:
            declined = declined or str(why)
            continue
        if found is not None:
            guest, mounts = found
            return Machine(layouts, (slot, part), guest, listing), mounts
    return Machine(layouts, loaders=listing, declined=declined), ()


def _ordered(work: Work) -> list[journal.LayerEntry]:
    by_slot = {disk.slot: disk for disk in work.point.disks}
    return [by_slot[slot] for slot in work.files]


def _layout(host: Host, place: Place, disk: journal.LayerEntry) -> DiskLayout:
    reader = open_file(host.session, place, disk.file, disk.size_bytes, host.tls())

    def read(offset: int, length: int) -> bytes:
        length = min(length, disk.size_bytes - offset)
        return reader.read(offset, length) if length > 0 and offset >= 0 else b""

    try:
        return read_layout(disk.slot, read, disk.size_bytes)
    finally:
        reader.close()


def _listing(host: Host, work: Work, layouts: Sequence[DiskLayout], means: Means) -> tuple[str, ...] | None:
    boot = next((found for found in layouts if found.boots), None)
    if boot is None or boot.esp is None or boot.firmware != "uefi" or not means.mtools:
        return None
    try:
        return step.loaders(host, work, boot.slot, boot.esp)
    except BootpointError as problem:
        if problem.code is not Code.CONVERSION_FAILED:
            raise
        return ()  # what mtools can't read, firmware can't either


def _guest(
    host: Host, work: Work, layouts: Sequence[DiskLayout], root: Mount
) -> tuple[Guest, tuple[Mount, ...]] | None:
    """Collect a guest's files, with the file systems that its fstab mounts below its root; None: it has no fstab.

    Raises:
        ValueError: Why it can't be looked into, to be read after "because".
    """
    guest = _collected(host, work, (root,))
    if guest is None:
        return None
    wanted = {at: what for at, what in mount_points(guest.text("etc/fstab")).items() if at.strip("/") in _BELOW}
    if not wanted:
        return guest, (root,)
    devices = Devices(layouts, (root.slot, root.part), guest.text("etc/fstab"))
    mounts = [root]
    for at, what in sorted(wanted.items()):
        found = _named(layouts, devices, what)
        if found is None or found[1].kind not in MOUNTED:
            raise ValueError(f"{at} lies on {shown(what)}, which is no plain partition")
        mounts.append(Mount(*found, at.strip("/")))
    guest = _collected(host, work, mounts)
    if guest is None:
        raise ValueError("its files could not be collected")
    return guest, tuple(mounts)


def _named(layouts: Sequence[DiskLayout], devices: Devices, what: str) -> tuple[str, Partition] | None:
    """Return the partition that a line of an fstab names."""
    kind, _, value = what.replace('"', "").partition("=")
    by_device = devices.partition(what)
    for layout in layouts:
        for part in layout.partitions:
            named = {"UUID": part.uuid, "LABEL": part.label, "PARTUUID": part.part_uuid}.get(kind, "")
            if part is by_device or (value and named.lower() == value.lower()):
                return layout.slot, part
    return None


def _collected(host: Host, work: Work, mounts: Sequence[Mount]) -> Guest | None:
    try:
        archive = step.collect(host, work, mounts)
    except BootpointError as problem:
        if problem.code is not Code.CONVERSION_FAILED:
            raise
        raise ValueError(problem.message) from problem
    if archive == step.DATA:
        return None
    if not archive:
        raise ValueError("its own programs can't be run here")
    guest = read_collection(archive)
    return guest if "etc/fstab" in guest.files else None
