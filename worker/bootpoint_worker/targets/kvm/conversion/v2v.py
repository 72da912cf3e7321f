"""The way of virt-v2v-in-place: libguestfs' appliance looks into the disks, nothing of the guest runs on the host."""

from __future__ import annotations

import posixpath
import xml.etree.ElementTree as ET

from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.kvm import domain, script
from bootpoint_worker.targets.kvm.conversion import step
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.means import means_of
from bootpoint_worker.targets.replica import Replica

#: Seconds that a conversion may take. Without KVM the appliance starts in 20, and a conversion takes 100 and more.
V2V_SECONDS = 1300

#: Exit code of timeout(1) when the time is over.
_TIMED_OUT = 124


def convert(host: Host, work: Work, replica: Replica, profile: Profile) -> None:
    """Convert the layers.

    Raises:
        FatalError: ``conversion_failed``.
    """
    means = means_of(host)
    if means.v2v:
        raise step.failed(host, f"virt-v2v-in-place can't be used because {means.v2v}")
    if profile.system.family == "windows" and means.virtio_win is None:
        raise step.failed(host, "Windows needs drivers: set virtio_win of the host to an ISO of them")
    host.step("convert:v2v")
    operation = f"convert-{work.key}.{work.token}"
    command = (
        "sh", "-c", script.script("convert"), "convert", work.place.directory, work.key, work.token, str(V2V_SECONDS),
        script.bare("step_v2v"), host.virt_type, means.virtio_win or "", _xml(host, work, replica, profile),
    )  # fmt: skip
    code, said = work.place.operate(operation, command, timeout=V2V_SECONDS + 60.0, what="convert by virt-v2v-in-place")
    if code == _TIMED_OUT:
        raise step.failed(host, f"virt-v2v-in-place was not done after {V2V_SECONDS} s: {said.strip()[-300:]}")
    if code != 0:
        lines = [line for line in said.splitlines() if line.strip()]
        raise step.failed(host, f"virt-v2v-in-place could not convert it: {' / '.join(lines[-4:])[-800:]}")


def _xml(host: Host, work: Work, replica: Replica, profile: Profile) -> str:
    """Return what virt-v2v reads of a machine: its disks in order, on the bus that it has now."""
    root = ET.Element("domain", type=host.virt_type)
    ET.SubElement(root, "name").text = replica.vm_name
    ET.SubElement(root, "memory", unit="b").text = str(replica.memory_bytes)
    ET.SubElement(root, "vcpu").text = str(replica.cpus)
    system = ET.SubElement(root, "os", {"firmware": "efi"} if profile.firmware == "uefi" else {})
    ET.SubElement(system, "type", arch="x86_64", machine="pc").text = "hvm"
    devices = ET.SubElement(root, "devices")
    bus = profile.bus or "sata"
    for number, file in enumerate(work.files.values()):
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type="qcow2")
        ET.SubElement(disk, "source", file=posixpath.join(work.place.directory, file))
        ET.SubElement(disk, "target", dev=f"{domain.BUSES[bus]}{chr(ord('a') + number)}", bus=bus)
    return ET.tostring(root, encoding="unicode")
