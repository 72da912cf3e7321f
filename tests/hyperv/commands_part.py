"""Commands about what a VM is made of: drives, controllers, cards, firmware; and the switches of the host."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from tests.hyperv import fault
from tests.hyperv.command import command, machines, many, number, off, owner, text
from tests.hyperv.machine import Machine, Snapshot, Switch
from tests.hyperv.part import Card, Controller, Drive, Firmware, ScsiController
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.value import PSObject

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Controllers and places on each: two IDE controllers with two, up to four SCSI controllers with 64 ("Plan for Hyper-V
#: scalability in Windows Server").
IDE_CONTROLLERS, IDE_LOCATIONS, SCSI_CONTROLLERS, SCSI_LOCATIONS = 2, 2, 4, 64

#: Names of the templates that Set-VMFirmware takes.
TEMPLATES = ("MicrosoftWindows", "MicrosoftUEFICertificateAuthority", "OpenSourceShieldedVM")

_MAC = re.compile(r"[0-9A-Fa-f]{12}")


def _wanted(call: Call, drive: Drive) -> bool:
    kind, controller, location = drive.place
    same_kind = text(call, "ControllerType", kind.name).upper() == kind.name
    same_controller = number(call, "ControllerNumber", controller) == controller
    return same_kind and same_controller and number(call, "ControllerLocation", location) == location


def _sorted(drives: list[Drive]) -> list[Drive]:
    return sorted(drives, key=lambda each: (each.controller_type.value, *each.place[1:]))


@command("Get-VMHardDiskDrive")
def get_vm_hard_disk_drive(host: Host, call: Call) -> object:
    """List disks of VMs or of a checkpoint, those on IDE first."""
    if "VMDriveController" in call:
        return [each for one in cast(list[ScsiController], many(call["VMDriveController"])) for each in one.drives]
    return [drive for each in owner(host, call) for drive in _sorted(each._settings.drives) if _wanted(call, drive)]


@command("Add-VMHardDiskDrive")
def add_vm_hard_disk_drive(host: Host, call: Call) -> object:
    """Connect the file of a disk; without a place it gets the first that is free."""
    added = []
    for machine in machines(host, call):
        place = _place(call, machine)
        if place[0] is Controller.IDE:
            off(call, machine)
        path = text(call, "Path")
        if not host.locate(path).is_file():
            raise fault.no_file(call.command, path)
        if machine._settings.drive_at(place) is not None:
            kind, controller, location = place
            where = f"{kind.name} controller {controller}, location {location}"
            raise fault.invalid(call.command, f"The location is already in use: {where} of '{machine.name}'.")
        drive = Drive(*place, path)
        machine._settings.drives.append(drive)
        # Behind what was there: the network comes first then (github.com/hashicorp/vagrant/issues/12166,
        # github.com/taliesins/terraform-provider-hyperv/issues/67).
        machine._settings.firmware.boot_order.append(drive)
        machine._own()
        added.append(drive)
    return added if call.switched("Passthru") else None


def _place(call: Call, machine: Machine) -> tuple[Controller, int, int]:
    """Return where a disk is to be.

    Raises:
        Failure: There is no such place.
    """
    default = "IDE" if machine.generation == 1 else "SCSI"
    kind = Controller[text(call, "ControllerType", default).upper()]
    controllers = (IDE_CONTROLLERS if machine.generation == 1 else 0, machine._settings.scsi_controllers)[kind.value]
    locations = (IDE_LOCATIONS, SCSI_LOCATIONS)[kind.value]
    controller = number(call, "ControllerNumber", 0)
    taken = [each.place for each in [*machine._settings.drives, *machine._settings.dvds]]
    free = (each for each in range(locations) if (kind, controller, each) not in taken)
    location = number(call, "ControllerLocation", next(free, 0))
    if controller >= controllers or location >= locations:
        text_ = f"'{machine.name}' has no location {location} on {kind.name} controller {controller}."
        raise fault.invalid(call.command, text_)
    return kind, controller, location


@command("Remove-VMHardDiskDrive")
def remove_vm_hard_disk_drive(host: Host, call: Call) -> object:
    """Take disks off; their files stay."""
    for drive in _drives(host, call, "VMHardDiskDrive"):
        machine = host.vmms.find(drive.vm_id)
        if machine is None or drive not in machine._settings.drives or drive.vm_snapshot_id is not None:
            raise fault.invalid(call.command, f"'{drive.name}' isn't a drive of a virtual machine.")
        if drive.controller_type is Controller.IDE:
            off(call, machine)
        machine._settings.drives.remove(drive)
        machine._settings.firmware.forget(drive)
        host.vmms.rehold(machine, call.command)
    return None


def _drives(host: Host, call: Call, name: str) -> list[Drive]:
    if name in call:
        return cast(list[Drive], many(call[name]))
    found = [each._settings.drive_at(_place(call, each)) for each in machines(host, call)]
    return [each for each in found if each is not None]


@command("Get-VMDvdDrive")
def get_vm_dvd_drive(host: Host, call: Call) -> object:
    """List DVD drives."""
    return [each for one in owner(host, call) for each in one._settings.dvds if _wanted(call, each)]


@command("Remove-VMDvdDrive")
def remove_vm_dvd_drive(host: Host, call: Call) -> object:
    """Take DVD drives off VMs that are off."""
    for drive in _drives(host, call, "VMDvdDrive"):
        machine = host.vmms.find(drive.vm_id)
        if machine is None or drive not in machine._settings.dvds:
            raise fault.invalid(call.command, f"'{drive.name}' isn't a drive of a virtual machine.")
        off(call, machine)
        machine._settings.dvds.remove(drive)
    return None


@command("Get-VMScsiController")
def get_vm_scsi_controller(host: Host, call: Call) -> object:
    """List SCSI controllers."""
    found = []
    for each in owner(host, call):
        for controller in range(each._settings.scsi_controllers):
            place = (Controller.SCSI, controller)
            drives = [drive for drive in each._settings.drives if drive.place[:2] == place]
            vm_id = each.vm_id
            found.append(ScsiController(controller, each.name, vm_id, drives))
    wanted = number(call, "ControllerNumber", -1)
    return [each for each in found if wanted in (-1, each.controller_number)]


@command("Add-VMScsiController")
def add_vm_scsi_controller(host: Host, call: Call) -> object:
    """Add a SCSI controller to VMs that are off."""
    for machine in machines(host, call):
        off(call, machine)
        if machine._settings.scsi_controllers >= SCSI_CONTROLLERS:
            text_ = f"'{machine.name}' has the most SCSI controllers that there can be: {SCSI_CONTROLLERS}."
            raise fault.refused(call.command, text_)
        machine._settings.scsi_controllers += 1
    return None


# --- network


@command("Get-VMNetworkAdapter")
def get_vm_network_adapter(host: Host, call: Call) -> object:
    """List cards."""
    named = text(call, "Name").lower()
    every = [each for one in owner(host, call) for each in one._settings.cards]
    return [each for each in every if not named or each.name.lower() == named]


@command("Add-VMNetworkAdapter")
def add_vm_network_adapter(host: Host, call: Call) -> object:
    """Add a card to VMs; one of the old kind only to those of the first generation."""
    legacy = call.switched("IsLegacy")
    mac, switch = call.get("StaticMacAddress", None), call.get("SwitchName", None)
    if switch is not None and switch not in host.switches:
        raise fault.invalid(call.command, f'Hyper-V was unable to find a virtual switch with name "{switch}".')
    if mac is not None and not _MAC.fullmatch(str(mac).replace("-", "").replace(":", "")):
        raise fault.invalid(call.command, f"'{mac}' isn't a MAC address.")
    for machine in machines(host, call):
        off(call, machine)
        if legacy and machine.generation == 2:
            raise fault.invalid(call.command, "A virtual machine of generation 2 has no legacy network adapters.")
        digits = re.sub("[-:]", "", str(mac)).upper() if mac is not None else "000000000000"
        name = text(call, "Name", "Legacy Network Adapter" if legacy else "Network Adapter")
        card = Card(name, digits, mac is None, switch, is_legacy=legacy)
        machine._settings.cards.append(card)
        machine._settings.firmware.boot_order.append(card)
        machine._own()
    return None


@command("Remove-VMNetworkAdapter")
def remove_vm_network_adapter(host: Host, call: Call) -> object:
    """Take cards out of VMs that are off."""
    named = text(call, "Name").lower()
    every = [card for each in host.vmms.machines for card in each._settings.cards]
    if "VMNetworkAdapter" in call:
        wanted = cast(list[Card], many(call["VMNetworkAdapter"]))
    else:
        cards = [card for each in machines(host, call) for card in each._settings.cards]
        wanted = [card for card in cards if not named or card.name.lower() == named]
    for card in wanted:
        machine = host.vmms.find(card.vm_id)
        if machine is None or card not in every:
            raise fault.invalid(call.command, f"'{card.name}' isn't a network adapter of a virtual machine.")
        off(call, machine)
        machine._settings.cards.remove(card)
        machine._settings.firmware.forget(card)
    return None


@command("Connect-VMNetworkAdapter")
def connect_vm_network_adapter(host: Host, call: Call) -> object:
    """Plug cards into a switch."""
    switch = text(call, "SwitchName")
    if switch not in host.switches:
        raise fault.invalid(call.command, f'Hyper-V was unable to find a virtual switch with name "{switch}".')
    for card in cast(list[Card], many(call.get("VMNetworkAdapter", None))):
        card.switch_name = switch
    return None


@command("Get-VMSwitch")
def get_vm_switch(host: Host, call: Call) -> object:
    """List switches."""
    named = text(call, "Name")
    every = [
        PSObject.of(Name=name, Id=host.switch_ids[name], SwitchType=kind, ComputerName=host.name)
        for name, kind in host.switches.items()
        if not named or name.lower() == named.lower()
    ]
    if named and not every:
        call.error(fault.invalid(call.command, f'Hyper-V was unable to find a virtual switch with name "{named}".'))
    return every


@command("New-VMSwitch")
def new_vm_switch(host: Host, call: Call) -> object:
    """Make a switch; two may have one name, so that here the name isn't given twice."""
    name = text(call, "Name")
    if name in host.switches:
        raise fault.refused(call.command, f"There is a virtual switch '{name}' already.")
    host.switches[name] = Switch[text(call, "SwitchType", "External")]
    host.switch_ids[name] = uuid4()
    return PSObject.of(Name=name, Id=host.switch_ids[name], SwitchType=host.switches[name], ComputerName=host.name)


# --- firmware


def _second(call: Call, each: Machine | Snapshot) -> Firmware:
    machine = each._machine if isinstance(each, Snapshot) else each
    if machine.generation != 2:
        text_ = f"'{machine.name}' is a virtual machine of generation 1, which has a BIOS and no firmware settings."
        raise fault.invalid(call.command, text_)
    return each._settings.firmware


@command("Get-VMFirmware")
def get_vm_firmware(host: Host, call: Call) -> object:
    """Return the firmware of VMs of the second generation."""
    return [_second(call, each) for each in owner(host, call)]


@command("Set-VMFirmware")
def set_vm_firmware(host: Host, call: Call) -> object:
    """Set Secure Boot and what is booted from."""
    for machine in machines(host, call):
        firmware = _second(call, machine)
        template = call.get("SecureBootTemplate", None)
        if template is not None and template not in TEMPLATES:
            raise fault.invalid(call.command, f"'{template}' isn't a template of Secure Boot.")
        if "EnableSecureBoot" in call:
            off(call, machine)
            firmware.secure_boot = text(call, "EnableSecureBoot")
        if template is not None:
            firmware.secure_boot_template = str(template)
        if "FirstBootDevice" in call:
            first = call["FirstBootDevice"]
            if first not in [*machine._settings.drives, *machine._settings.dvds, *machine._settings.cards]:
                raise fault.invalid(call.command, "The boot device isn't one of the virtual machine's.")
            firmware.boot_order = [first, *(each for each in firmware.boot_order if each is not first)]
    return None
