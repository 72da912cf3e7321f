"""Which drivers an initramfs has to have, and what makes it anew."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bootpoint_worker.conversion import device
from bootpoint_worker.conversion.guest import Edits, Guest, Kernel


@dataclass(frozen=True, slots=True)
class Platform:
    """The hardware of a kind of host, as a Linux sees it.

    Attributes:
        drivers: Those without which a machine finds neither disk nor network there.
        buses: Disk buses that only these hosts have.
        others: Disk buses there that a guest may know from its source, the best first.
        card: Driver of its best network card.
        emulated: Network card for a guest that lacks it.
        disk: How the names of disks begin.
    """

    drivers: tuple[str, ...]
    buses: tuple[str, ...]
    others: tuple[str, ...]
    card: str
    emulated: str
    disk: str


#: KVM's, with virtio.
VIRTIO = Platform(
    ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"),
    ("virtio",),
    ("sata", "ide", "scsi", "virtio"),
    "virtio_net",
    "e1000e",
    "vd",
)

#: VMware's.
VMWARE = Platform(
    ("vmw_pvscsi", "vmxnet3", "ahci"),
    ("pvscsi", "lsilogic", "lsisas", "nvme"),
    ("sata", "ide", "lsilogic", "pvscsi"),
    "vmxnet3",
    "e1000e",
    "sd",
)

#: Hyper-V's: everything hangs on the VMBus, but the emulated devices of the first generation.
HYPERV = Platform(("hv_vmbus", "hv_storvsc", "hv_netvsc"), ("vmbus",), ("ide",), "hv_netvsc", "legacy", "sd")

#: Those without which it doesn't boot, by disk bus.
NEEDED = {
    "virtio": ("virtio_pci", "virtio_blk"),
    "scsi": ("virtio_pci", "virtio_scsi"),
    "sata": ("ahci",),
    "ide": ("ata_piix",),
    "pvscsi": ("vmw_pvscsi",),
    "lsilogic": ("mptspi",),
    "lsisas": ("mptsas",),
    "nvme": ("nvme",),
    "vmbus": ("hv_vmbus", "hv_storvsc"),
}

#: Where initramfs-tools is told of more drivers.
MODULES = "etc/initramfs-tools/modules"

#: Where dracut is told of more drivers.
DRACUT = "etc/dracut.conf.d/bootpoint.conf"


def platform_of(bus: str) -> Platform:
    """Return the hardware of the hosts that have a disk bus; of one that many have, KVM's."""
    return next((each for each in (VMWARE, HYPERV) if bus in each.buses), VIRTIO)


def drivers_for(bus: str) -> tuple[str, ...]:
    """Return the drivers that a new initramfs gets for a disk bus, and for what else its kind of host has."""
    platform = platform_of(bus)
    return platform.drivers if platform is VIRTIO else tuple(dict.fromkeys((*platform.drivers, *NEEDED[bus])))


def boots_on(kernel: Kernel, bus: str) -> bool:
    """Tell whether a kernel finds its root on a disk bus; one without an initramfs has all that it needs built in."""
    return all(driver in kernel.has for driver in NEEDED[bus])


def boots_nowhere(guest: Guest, kernel: Kernel) -> bool:
    """Tell whether a kernel has no initramfs, and doesn't find its root without one.

    It needs one for a disk whose driver isn't built in, and for a root that isn't named by a partition: what a file
    system's UUID or label is, and what a mapped device is made of, only programs find out (Linux, early-lookup.c).
    """
    if kernel.initramfs is not None:
        return False
    roots = device.roots(guest)
    named = not roots or any(re.match(r"PARTUUID=|PARTLABEL=|/dev/(?!mapper/)", root) for root in roots)
    return not named or not any(boots_on(kernel, bus) for bus in NEEDED)


def with_initramfs(guest: Guest) -> tuple[Kernel, ...]:
    """Return the kernels that can be booted: those that have an initramfs, or all when none has."""
    return tuple(kernel for kernel in guest.kernels if kernel.initramfs) or guest.kernels


def plan_initramfs(guest: Guest, edits: Edits, bus: str) -> None:
    """Plan new initramfs for all kernels that lack the drivers of a bus; none where all have them.

    A machine whose kernels don't find their root, because their initramfs is gone, doesn't start on its own hardware
    either. That isn't healed: a boot check is to tell so while there is time to mend it at the source.

    Raises:
        ValueError: Why it can't be done, to be read after "because".
    """
    lacking = [kernel for kernel in with_initramfs(guest) if not boots_on(kernel, bus)]
    if not lacking:
        return
    if all(boots_nowhere(guest, kernel) for kernel in lacking):
        named = ", ".join(kernel.version for kernel in lacking)
        text = f"its kernel {named} has no initramfs and no root without it: it doesn't start at the source either"
        edits.problems.append(text)
        return
    unable = [kernel.version for kernel in lacking if not set(NEEDED[bus]) <= kernel.has | kernel.modules]
    if len(unable) == len(lacking) == len(with_initramfs(guest)):
        raise ValueError(f"its kernel {unable[0]} has no driver {' or '.join(NEEDED[bus])}")
    versions = tuple(kernel.version for kernel in lacking if kernel.version not in unable)
    drivers = drivers_for(bus)
    if "update-initramfs" in guest.tools:
        edits.initramfs = "initramfs-tools"
        lines = guest.text(MODULES).splitlines()
        missing = [driver for driver in drivers if driver not in lines]
        edits.write(guest, MODULES, "".join(f"{line}\n" for line in [*lines, *missing]))
    elif "dracut" in guest.tools:
        edits.initramfs = "dracut"
        edits.write(guest, DRACUT, f'add_drivers+=" {" ".join(drivers)} "\n')
    else:
        raise ValueError("it has neither initramfs-tools nor dracut")
    edits.versions = versions
    edits.actions.append(
        f"the initramfs of {', '.join(versions)} is made anew by {edits.initramfs} with {', '.join(drivers)}"
    )
