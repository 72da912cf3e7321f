"""The libvirt definition of a VM over scratch layers.

Elements as in libvirt's "Domain XML format" (formatdomain.html).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.units import SECTOR, KiB
from bootpoint_worker.targets.replica import Nic

#: XML namespace of our element in a domain's metadata.
NAMESPACE = "urn:bootpoint:replica:1"

#: Name of the port of the QEMU guest agent.
GUEST_AGENT = "org.qemu.guest_agent.0"

#: Disk bus -> (prefix of the device names, letters at most).
BUSES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}

#: Those whose disks can have sectors of 4,096 bytes: QEMU refuses that of the others.
LARGE_SECTOR_BUSES = ("virtio", "scsi")

#: Disks that an IDE controller takes.
IDE_DISKS = 4

#: Network cards that QEMU offers for x86.
NIC_MODELS = ("virtio", "e1000e", "e1000", "rtl8139", "vmxnet3")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a VM: the absolute path of its file, its bus, and the bytes of its logical sectors."""

    path: str
    bus: str
    sector_bytes: int = SECTOR


@dataclass(frozen=True, slots=True)
class Definition:
    """All that a VM's definition says.

    Attributes:
        name: Name of the VM.
        uuid: libvirt's id of it.
        replica_id: The replica that it belongs to.
        directory: The replica's directory, by which it is found without a database.
        virt_type: ``kvm`` or ``qemu``.
        cpus: Virtual CPUs.
        memory_bytes: Memory.
        firmware: ``bios`` or ``uefi``.
        disks: The first one boots.
        nics: Network cards.
        isolated: Cut every card off: a test must not meet the machine that it is a copy of.
        serial_log: Absolute path that the first serial port is written to.
        bridges: Which of the networks' names are bridges, not libvirt networks.
        test_id: The test that it is made for.
        console_log: Absolute path that gets a copy of what the guest writes to its first serial port, which people can
            use at the same time. Not together with ``serial_log``.
        firmware_log: Absolute path that gets what the firmware says of itself.
    """

    name: str
    uuid: UUID
    replica_id: UUID
    directory: str
    virt_type: str
    cpus: int
    memory_bytes: int
    firmware: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    isolated: bool = False
    serial_log: str | None = None
    bridges: frozenset[str] = frozenset()
    test_id: str | None = None
    console_log: str | None = None
    firmware_log: str | None = None


def domain_xml(definition: Definition) -> str:
    """Write the definition as libvirt's XML."""
    root = ET.Element("domain", type=definition.virt_type)
    _leaf(root, "name", definition.name)
    _leaf(root, "uuid", str(definition.uuid))
    metadata = ET.SubElement(root, "metadata")
    mark = ET.SubElement(metadata, f"{{{NAMESPACE}}}replica", id=str(definition.replica_id))
    mark.set("directory", definition.directory)
    if definition.test_id is not None:
        mark.set("test", definition.test_id)
    _leaf(root, "memory", str(definition.memory_bytes // KiB), unit="KiB")
    _leaf(root, "vcpu", str(definition.cpus))
    _machine(root, definition)
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _leaf(root, event, action)
    devices = ET.SubElement(root, "devices")
    _disks(devices, definition.disks)
    for nic in definition.nics:
        _nic(devices, nic, definition)
    _consoles(devices, definition)
    ET.register_namespace("bootpoint", NAMESPACE)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _leaf(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _machine(root: ET.Element, definition: Definition) -> None:
    # q35 has no IDE controller; a machine that boots from IDE gets the older chipset.
    machine = "pc" if any(disk.bus == "ide" for disk in definition.disks) else "q35"
    system = ET.SubElement(root, "os", {"firmware": "efi"} if definition.firmware == "uefi" else {})
    _leaf(system, "type", "hvm", arch="x86_64", machine=machine)
    if definition.firmware == "uefi":
        # Left to itself libvirt may choose a firmware with Secure Boot switched on, which starts nothing unsigned: most
        # sources never had that. Without keys anything boots. Before libvirt 7.2 this says nothing, and does no harm.
        firmware = ET.SubElement(system, "firmware")
        ET.SubElement(firmware, "feature", enabled="no", name="enrolled-keys")
    ET.SubElement(system, "boot", dev="hd")
    features = ET.SubElement(root, "features")
    for feature in ("acpi", "apic"):
        ET.SubElement(features, feature)
    if definition.virt_type == "kvm":
        ET.SubElement(root, "cpu", mode="host-model")
    # The hardware clock of a Linux machine runs in UTC.
    ET.SubElement(root, "clock", offset="utc")


def _disks(devices: ET.Element, disks: tuple[Disk, ...]) -> None:
    counts: dict[str, int] = {}
    for disk in disks:
        prefix = BUSES[disk.bus]
        device = prefix + chr(ord("a") + counts.setdefault(prefix, 0))
        counts[prefix] += 1
        element = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(element, "driver", name="qemu", type="qcow2", discard="unmap")
        ET.SubElement(element, "source", file=disk.path)
        ET.SubElement(element, "target", dev=device, bus=disk.bus)
        if disk.sector_bytes != SECTOR:
            size = str(disk.sector_bytes)
            ET.SubElement(element, "blockio", logical_block_size=size, physical_block_size=size)
    if any(disk.bus == "scsi" for disk in disks):
        ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")


def _nic(devices: ET.Element, nic: Nic, definition: Definition) -> None:
    connected = nic.connect and nic.network is not None and not definition.isolated
    if not connected or nic.network is None:
        # Present, so that the guest finds its card; without a link and without a way to anywhere.
        element = ET.SubElement(devices, "interface", type="user")
    elif nic.network in definition.bridges:
        element = ET.SubElement(devices, "interface", type="bridge")
        ET.SubElement(element, "source", bridge=nic.network)
    else:
        element = ET.SubElement(devices, "interface", type="network")
        ET.SubElement(element, "source", network=nic.network)
    ET.SubElement(element, "mac", address=nic.mac)
    ET.SubElement(element, "model", type=nic.model)
    if not connected:
        ET.SubElement(element, "link", state="down")


def _consoles(devices: ET.Element, definition: Definition) -> None:
    serial = ET.SubElement(devices, "serial", type="file" if definition.serial_log else "pty")
    if definition.serial_log:
        ET.SubElement(serial, "source", path=definition.serial_log)
    elif definition.console_log:
        ET.SubElement(serial, "log", file=definition.console_log, append="off")
    ET.SubElement(serial, "target", port="0")
    if definition.firmware_log:
        # SeaBIOS writes there at each reset, so a reset that nobody watched can be counted afterwards.
        firmware = ET.SubElement(devices, "serial", type="file")
        ET.SubElement(firmware, "source", path=definition.firmware_log)
        ET.SubElement(firmware, "target", type="isa-debug")
        ET.SubElement(firmware, "address", type="isa", iobase="0x402")
    # By which a guest with the QEMU guest agent can say that it is up; to others it is one more device.
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name=GUEST_AGENT)
    ET.SubElement(devices, "graphics", type="vnc", port="-1", autoport="yes", listen="127.0.0.1")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga")


def disk_files(xml: str) -> list[str]:
    """Return the files that a definition's disks name."""
    return [source.get("file", "") for source in ET.fromstring(xml).iterfind("./devices/disk/source")]  # noqa: S314 - libvirtd made it


@dataclass(frozen=True, slots=True)
class Mark:
    """What our metadata in a definition says; fields as in `Definition`."""

    replica_id: UUID
    directory: str
    test_id: str | None


def mark_of(xml: str) -> Mark | None:
    """Return our metadata in a definition; None when bootpoint didn't make it."""
    found = ET.fromstring(xml).find(f"./metadata/{{{NAMESPACE}}}replica")  # noqa: S314 - libvirtd made it
    if found is None:
        return None
    try:
        replica_id = UUID(found.get("id", ""))
    except ValueError:
        return None
    return Mark(replica_id, found.get("directory", ""), found.get("test"))
