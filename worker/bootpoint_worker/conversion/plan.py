"""From what a machine's disks hold to what a start on a target takes: the profile, and the edits of the light route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from bootpoint_worker.conversion import device, disk, loader, network
from bootpoint_worker.conversion.disk import DiskLayout, Partition
from bootpoint_worker.conversion.guest import Edits, Guest, shown
from bootpoint_worker.conversion.initramfs import HYPERV, boots_on, plan_initramfs, platform_of, with_initramfs
from bootpoint_worker.targets.guest import GuestSystem, Problem, Profile
from bootpoint_worker.targets.replica import Nic

#: What may hold a Linux that the light route doesn't reach, as a sentence about a partition says it.
_BENEATH = {"lvm": "a physical volume of LVM", "md": "a member of an md array", "btrfs": "a btrfs"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found on a machine's disks.

    Attributes:
        layouts: Its disks, in the job's order.
        root: Slot and partition of its root file system, where the light route has found it.
        guest: Its files, likewise.
        loaders: Files of its EFI partition; None where there is none, or none was looked into.
        declined: Why its files couldn't be looked into, to be read after "because"; empty when they were.
    """

    layouts: tuple[DiskLayout, ...]
    root: tuple[str, Partition] | None = None
    guest: Guest | None = None
    loaders: tuple[str, ...] | None = None
    declined: str = ""

    @property
    def windows(self) -> bool:
        """Whether it runs Windows."""
        return self.guest is None and any(layout.windows for layout in self.layouts)


@dataclass(frozen=True, slots=True)
class Means:
    """What a host has for conversions.

    Attributes:
        light: Why the light route can't be gone there, to be read after "because"; empty when it can.
        v2v: Likewise virt-v2v-in-place.
        mtools: Whether it can write into EFI partitions.
        virtio_win: Path of the operator's ISO of drivers for Windows.
    """

    light: str = ""
    v2v: str = ""
    mtools: bool = True
    virtio_win: str | None = None


@dataclass
class _Draft:
    """A profile on its way."""

    route: str = "none"
    bus: str | None = None
    nic_model: str | None = None
    loader: str | None = None
    actions: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, text: str, *, bootable: bool = True) -> None:
        self.problems.append(Problem(text, bootable))


def decide(point_id: UUID, machine: Machine, means: Means, *, bus: str, nics: Sequence[Nic]) -> Profile:
    """Work out what a start takes.

    Args:
        point_id: The point that was looked into.
        machine: What was found there.
        means: What the host has.
        bus: Disk bus of the job.
        nics: Network cards of the standby.
    """
    draft = _Draft()
    boot = next((layout for layout in machine.layouts if layout.boots), None)
    if boot is None:
        draft.note("no disk of the job has a boot loader: select the disk that the source boots from", bootable=False)
    system = GuestSystem()
    if machine.guest is not None:
        system = machine.guest.system
        _linux(draft, machine, means, bus, nics)
    elif machine.windows:
        system = GuestSystem("windows", "Windows")
        _windows(draft, means, bus)
    elif machine.layouts and any(layout.partitions for layout in machine.layouts):
        _unknown(draft, machine, means, bus)
    if boot is not None and boot.firmware == "uefi" and machine.loaders is not None:
        _fallback(draft, machine.loaders, means)
    return Profile(
        point_id=point_id,
        made_at=datetime.now(UTC),
        system=system,
        firmware=boot.firmware if boot else None,
        boot_disk=boot.slot if boot else None,
        route=draft.route,
        bus=draft.bus,
        nic_model=draft.nic_model,
        loader=draft.loader,
        actions=tuple(draft.actions),
        problems=tuple(draft.problems),
    )


def _linux(draft: _Draft, machine: Machine, means: Means, bus: str, nics: Sequence[Nic]) -> None:
    guest = machine.guest or Guest()
    native, platform = native_bus(guest, bus), platform_of(bus)
    # What starts by UEFI is a VM of the second generation there, and has no emulated disks.
    by_uefi = any(layout.boots and layout.firmware == "uefi" for layout in machine.layouts)
    diskless = native == "ide" and platform is HYPERV and by_uefi
    if native != bus and not diskless:
        draft.bus = native
    if all(platform.card not in kernel.modules | kernel.has for kernel in guest.kernels):
        draft.nic_model = platform.emulated
    try:
        edits = plan_edits(machine, bus=bus, nics=nics)
    except ValueError as why:
        draft.note(f"the light conversion can't be done because {why}", bootable=not diskless)
        _heavy(draft, means)
        return
    draft.route = "light"
    draft.actions += edits.actions
    for text in edits.problems:
        draft.note(text)


def _heavy(draft: _Draft, means: Means) -> None:
    """Take virt-v2v-in-place, or where there is none only hardware that the source knows."""
    if not means.v2v:
        draft.route = "v2v"
        draft.actions.append("virt-v2v-in-place makes it boot on virtio")
        draft.note("the guest's network configuration stays as it is on the source")
        return
    draft.route = "hardware"
    draft.note(f"virt-v2v-in-place can't be used because {means.v2v}")
    if draft.bus is not None:
        draft.actions.append(f"its disks are attached by {draft.bus}, which it knows from the source")


def _windows(draft: _Draft, means: Means, bus: str) -> None:
    if platform_of(bus) is HYPERV:
        # Drivers of the VMBus are in Windows since 8 and Server 2012; an older one starts from IDE, which is emulated.
        draft.route = "hardware"
        draft.note("Windows 7 and Server 2008 R2 or older need Hyper-V's integration services for their network")
        return
    draft.bus, draft.nic_model = "sata", "e1000e"
    if bus not in ("virtio", "scsi", "pvscsi", "lsilogic"):
        draft.bus = bus
    if not means.v2v and means.virtio_win is not None:
        draft.route = "v2v"
        draft.actions.append(f"virt-v2v-in-place installs the drivers of {means.virtio_win}")
        return
    draft.route = "hardware"
    draft.actions.append(
        f"its disks are attached by {draft.bus} and its network card is an e1000e, which Windows knows"
    )
    missing = means.v2v or "the host's setting virtio_win names no ISO of drivers"
    draft.note(f"it gets no virtio drivers because {missing}")


def _unknown(draft: _Draft, machine: Machine, means: Means, bus: str) -> None:
    draft.note(f"the light conversion can't be done because {_why_unknown(machine)}")
    kinds = {part.kind for layout in machine.layouts for part in layout.partitions}
    if "luks" in kinds:
        draft.note("a partition is encrypted: it boots only where the source's initramfs has the drivers")
    elif machine.declined or kinds & _BENEATH.keys():
        _heavy(draft, means)  # else all was seen, and virt-v2v would find no system either: it is started as it is
        draft.note(f"its initramfs wasn't looked into: unconverted, as by the runbook, it needs drivers for {bus}")


def _why_unknown(machine: Machine) -> str:
    """Say why no Linux is known, with what lies where one may be; to be read after "because"."""
    if machine.declined:
        return machine.declined
    beneath = [
        f"partition {part.number} of {layout.slot} is {_BENEATH[part.kind]}"
        for layout in machine.layouts
        for part in layout.partitions
        if part.kind in _BENEATH
    ]
    return "no Linux was found on a plain partition" + (f": {', '.join(beneath)}" if beneath else "")


def _fallback(draft: _Draft, listing: Sequence[str], means: Means) -> None:
    if loader.has_fallback(listing):
        return
    copies = loader.plan_fallback(listing)
    if not copies:
        draft.note("its EFI partition has no boot loader that is known", bootable=False)
        return
    draft.loader = copies[0].source
    if not means.mtools:
        draft.note(f"/{loader.FALLBACK} is missing and the host has no mtools to write it", bootable=False)
    else:
        draft.actions.append(f"/{loader.FALLBACK} is made from the distribution's boot loader")
        draft.route = "light" if draft.route == "none" else draft.route


def native_bus(guest: Guest, bus: str) -> str:
    """Return the bus that a guest boots from as it is: the job's, unless its initramfs or its fstab wants another."""
    kernels = with_initramfs(guest)
    named = device.names_devices(guest.text("etc/fstab"))

    def fits(wanted: str) -> bool:
        return all(boots_on(kernel, wanted) for kernel in kernels) and not (named and wanted == "virtio")

    if not kernels or fits(bus):
        return bus
    return next((other for other in platform_of(bus).others if fits(other)), bus)


def plan_edits(machine: Machine, *, bus: str, nics: Sequence[Nic]) -> Edits:
    """Work out the edits of the light route.

    Raises:
        ValueError: Why it can't be done, to be read after "because".
    """
    guest, root = machine.guest, machine.root
    if guest is None or root is None:
        raise ValueError(_why_unknown(machine))
    _refuse_mapped(guest)
    edits = Edits()
    plan_initramfs(guest, edits, bus)
    devices = device.Devices(machine.layouts, root, guest.text("etc/fstab"))
    device.plan_devices(guest, edits, devices, disk=platform_of(bus).disk)
    network.plan_network(guest, edits, nics)
    return edits


def _refuse_mapped(guest: Guest) -> None:
    """Refuse a guest whose system lies on more than partitions."""
    mounts = device.mount_points(guest.text("etc/fstab"))
    for where in ("/", "/boot", "/usr", "/var"):
        what = mounts.get(where, "")
        if what.startswith(("/dev/mapper/", "/dev/md", "/dev/dm-")) or (what.count("/") == 3 and _volume(what)):
            raise ValueError(f"{where} lies on {shown(what)}")
    if "/usr" in mounts:
        raise ValueError("/usr is a file system of its own")
    lines = (line.split() for line in guest.text("etc/crypttab").splitlines())
    mapped = [words for words in lines if len(words) >= 2 and not words[0].startswith("#")]
    if any("swap" not in "".join(words[3:]) for words in mapped):
        raise ValueError("its crypttab names encrypted disks")


def _volume(what: str) -> bool:
    """Tell whether a name is that of a logical volume: /dev/GROUP/VOLUME."""
    return what.startswith("/dev/") and not what.startswith("/dev/disk/")


def candidates(layouts: Sequence[DiskLayout]) -> list[tuple[str, Partition]]:
    """Return partitions on which a root file system may lie, the largest first."""
    found = [(layout.slot, part) for layout in layouts for part in layout.partitions if part.kind in disk.MOUNTED]
    return sorted(found, key=lambda each: -each[1].size)
