"""Which drivers an initramfs has to have, and what makes it anew."""

from __future__ import annotations

import re

from bootpoint_worker.conversion import device
from bootpoint_worker.conversion.guest import Edits, Guest, Kernel

#: Drivers without which a machine finds neither disk nor network on virtio.
VIRTIO = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net")

#: Likewise on the hardware of VMware's hosts.
VMWARE = ("vmw_pvscsi", "vmxnet3", "ahci")

#: Disk buses that only VMware's hosts have.
VMWARE_BUSES = ("pvscsi", "lsilogic", "lsisas", "nvme")

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
}

#: Where initramfs-tools is told of more drivers.
MODULES = "etc/initramfs-tools/modules"

#: Where dracut is told of more drivers.
DRACUT = "etc/dracut.conf.d/bootpoint.conf"


def drivers_for(bus: str) -> tuple[str, ...]:
    """Return the drivers that a new initramfs gets for a disk bus, and for what else its kind of host has."""
    return tuple(dict.fromkeys((*VMWARE, *NEEDED[bus]))) if bus in VMWARE_BUSES else VIRTIO


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
