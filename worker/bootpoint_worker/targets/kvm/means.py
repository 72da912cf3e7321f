"""What a host has for conversions; without any of it the host works all the same, and machines start as they are."""

from __future__ import annotations

from bootpoint_worker.conversion.plan import Means
from bootpoint_worker.targets.kvm import script
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.session import check

#: What is missing -> where it comes from. Without any of them there is no light route.
_LIGHT = {
    "bwrap": "install bubblewrap",
    "unshare": "install util-linux",
    "losetup": "install mount (Debian) or util-linux (Red Hat)",
    "prlimit": "install util-linux",
    "timeout": "install coreutils",
    "base64": "install coreutils",
    "qemu-storage-daemon": "install qemu-system-common (Debian) or qemu-img (Red Hat)",
    "fuse": "its qemu-storage-daemon can't export by FUSE",
    "/dev/fuse": "load the kernel's module fuse",
    "x86_64": "it is another machine than x86-64",
    "namespaces": "its kernel allows no user namespaces",
}


def means_of(host: Host) -> Means:
    """Ask the host what it has for conversions."""
    said = check(host.session, host.session.run(script.script("convert_means")), "say what it has").text
    missing = [line.partition(" ")[2] for line in said.splitlines() if line.startswith("missing ")]
    light = "; ".join(f"the host has no {name} ({_LIGHT[name]})" for name in missing if name in _LIGHT)
    v2v = "the host has no virt-v2v-in-place (install virt-v2v)" if "virt-v2v-in-place" in missing else ""
    return Means(light, v2v, "mcopy" not in missing and not light, host.virtio_win)


def hints(host: Host) -> tuple[str, ...]:
    """Return what the host could have besides, each a sentence."""
    means = means_of(host)
    found = []
    if means.light:
        found.append(f"machines can't be converted by editing files: {means.light}")
    elif not means.mtools:
        found.append("boot loaders for UEFI can't be written: install mtools")
    if means.v2v:
        found.append(f"machines on LVM or btrfs can't be converted: {means.v2v}")
    return tuple(found)
