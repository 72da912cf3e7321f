r"""Hyper-V's WMI classes, as Get-WmiObject gives them: how a host tells a guest that runs what addresses it is to have.

Sources, all of Microsoft's Hyper-V WMI provider (V2): the pages of ``SetGuestNetworkAdapterConfiguration`` (what it
takes, its return values), ``Msvm_GuestNetworkAdapterConfiguration``, ``Msvm_SettingDataComponent`` (which port has
which), ``Msvm_KvpExchangeComponent`` (OperationalStatus) and ``Msvm_ConcreteJob`` (JobState). ``GetText`` is that of
System.Management.ManagementBaseObject, in the form CimDtd20: DSP0201, "Representation of CIM in XML". Ids of ports and
configurations are as in Eryph's and Azure Migrate's sources: ``Microsoft:<VM>\<card>``, ``Microsoft:GuestNetwork\…``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from tests.hyperv.command import command, text
from tests.hyperv.machine import Machine, Snapshot, State
from tests.hyperv.part import Card
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.pwsh.value import PSObject

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Namespace of Hyper-V's classes since Windows Server 2012.
VIRTUALIZATION = "root\\virtualization\\v2"

#: Return values of the method that are met here.
STARTED, NOT_SUPPORTED, INVALID, WRONG_STATE = 4096, 32770, 32773, 32775

#: OperationalStatus of the exchange: OK, and "the guest service is not installed or has not yet been contacted".
OK, NO_CONTACT = 2, 12

#: EnabledState: Enabled, Disabled.
ENABLED, DISABLED = 2, 3

#: JobState: Running, Completed, Exception.
RUNNING, COMPLETED, EXCEPTION = 4, 7, 10

#: ProtocolIFType -> versions of IP.
VERSIONS = {4096: {4}, 4097: {6}, 4098: {4, 6}}

#: Most default gateways of an adapter (Msvm_GuestNetworkAdapterConfiguration, DefaultGateways).
GATEWAYS = 5


class Configuration:
    """Msvm_GuestNetworkAdapterConfiguration: what the guest has, and what it is told once it was changed.

    Args:
        machine: Whose.
        card: Of which card.
    """

    def __init__(self, machine: Machine, card: Card) -> None:
        self.instance_id = f"Microsoft:GuestNetwork\\{str(machine.id).upper()}\\{card.adapter_id}"
        self.protocol_if_type: object = 4096
        self.dhcp_enabled: object = None
        self.ip_addresses: object = []
        self.subnets: object = []
        self.default_gateways: object = []
        self.dns_servers: object = []

    def get_text(self, form: object) -> str:
        """Return it as an embedded instance; only CIM's own form is one that Hyper-V takes."""
        if form != 1:
            raise failure("System.ArgumentOutOfRangeException", "Only CimDtd20 is known here.")
        instance = ET.Element("INSTANCE", CLASSNAME="Msvm_GuestNetworkAdapterConfiguration")
        for name, kind, value in (
            ("InstanceID", "string", self.instance_id),
            ("ProtocolIFType", "uint16", self.protocol_if_type),
            ("DHCPEnabled", "boolean", None if self.dhcp_enabled is None else str(self.dhcp_enabled).upper()),
        ):
            place = ET.SubElement(instance, "PROPERTY", NAME=name, TYPE=kind)
            if value is not None:
                ET.SubElement(place, "VALUE").text = str(value)
        for name, values in (
            ("IPAddresses", self.ip_addresses),
            ("Subnets", self.subnets),
            ("DefaultGateways", self.default_gateways),
            ("DNSServers", self.dns_servers),
        ):
            place = ET.SubElement(instance, "PROPERTY.ARRAY", NAME=name, TYPE="string")
            listed = ET.SubElement(place, "VALUE.ARRAY")
            for each in values if isinstance(values, list) else [values]:
                ET.SubElement(listed, "VALUE").text = str(each)
        return ET.tostring(instance, encoding="unicode")


@dataclass(frozen=True)
class Telling:
    """What a guest was told of a card; here only.

    Attributes:
        dhcp: Whether it is to ask a DHCP server.
        versions: Which versions of IP it is about.
        addresses: Its addresses with the lengths of their prefixes.
        gateways: Default gateways.
        dns: Name servers.
    """

    dhcp: bool
    versions: frozenset[int]
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    dns: tuple[str, ...]


@dataclass
class Job:
    """Msvm_ConcreteJob: its first looks find it running, the next one at its end, as a guest's answer takes a while."""

    error_description: str = ""
    busy_looks: int = 1
    instance_id: str = field(default_factory=lambda: str(uuid.uuid4()).upper())
    _looks: int = 0

    @property
    def job_state(self) -> int:
        """How it stands."""
        if self._looks <= self.busy_looks:
            return RUNNING
        return EXCEPTION if self.error_description else COMPLETED


class Port:
    """Msvm_SyntheticEthernetPortSettingData or Msvm_EmulatedEthernetPortSettingData.

    Args:
        machine: Whose.
        shown: The VM or one of its checkpoints, whose id the settings have.
        card: The card.
    """

    def __init__(self, machine: Machine, shown: Machine | Snapshot, card: Card) -> None:
        self._machine, self._card = machine, card
        self.instance_id = f"Microsoft:{str(shown.id).upper()}\\{card.adapter_id}"
        self.element_name = card.name
        self.address = card.mac_address

    def get_related(self, name: str) -> list[Configuration]:
        """Return the instances of a class that belong to it: the configuration of the guest."""
        if name != "Msvm_GuestNetworkAdapterConfiguration":
            raise failure("System.Management.ManagementException", "Not found")
        return [Configuration(self._machine, self._card)]


class Service:
    """Msvm_VirtualSystemManagementService."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def set_guest_network_adapter_configuration(self, system: object, texts: object) -> PSObject:
        """Tell the guest of a VM.

        "These configuration parameters are applied immediately upon establishing communication with the KVP Exchange
        integration component": whether a host keeps them until then the page leaves open, so here it ends with an error
        where there is none, and a client that doesn't look first is found out.
        """
        machine = next((each for each in self._host.vmms.machines if str(each.id) in str(system).lower()), None)
        if machine is None or machine.state is not State.Running:
            return PSObject.of(ReturnValue=WRONG_STATE, Job=None)
        told = [_parsed(machine, str(each)) for each in (texts if isinstance(texts, list) else [texts])]
        refused = next((each for each in told if isinstance(each, int)), None)
        if refused is not None:
            return PSObject.of(ReturnValue=refused, Job=None)
        job = Job(self._host.trouble.guest_refuses, self._host.trouble.busy_looks)
        if exchange(self._host, machine) != OK:
            job = Job(f"'{machine.name}' has no contact with the Key-Value Pair Exchange service of its guest.")
        if not job.error_description:
            machine._told |= dict(each for each in told if not isinstance(each, int))
        self._host.vmms.jobs.append(job)
        path = f'\\\\{self._host.name}\\{VIRTUALIZATION}:Msvm_ConcreteJob.InstanceID="{job.instance_id}"'
        return PSObject.of(ReturnValue=STARTED, Job=path)


def exchange(host: Host, machine: Machine) -> int:
    """Return how the key-value pair exchange with a guest that runs stands."""
    quiet = machine._silent_looks > 0 or host.trouble.exchange_disabled
    return NO_CONTACT if quiet or machine._guest is not None else OK


def _parsed(machine: Machine, given: str) -> tuple[str, Telling] | int:
    """Return the card's MAC address and what an embedded instance says of it; a return value that refuses it."""
    instance = ET.fromstring(given)
    values = {each.get("NAME"): each.findtext("VALUE") for each in instance.findall("PROPERTY")}
    lists = {
        each.get("NAME"): [value.text or "" for value in each.findall("VALUE.ARRAY/VALUE")]
        for each in instance.findall("PROPERTY.ARRAY")
    }
    cards = {Configuration(machine, card).instance_id: card for card in machine._settings.cards}
    card = cards.get(values["InstanceID"] or "")
    # "The DHCPEnabled property must be specified for each instance."
    if card is None or values["DHCPEnabled"] is None:
        return INVALID
    if card.is_legacy:
        # "This feature is supported only for synthetic network adapters" (Microsoft's virtualization blog, 2012).
        return NOT_SUPPORTED
    try:
        return card.mac_address, _telling(values["DHCPEnabled"] == "TRUE", int(values["ProtocolIFType"] or 0), lists)
    except (KeyError, ValueError):
        return INVALID


def _telling(dhcp: bool, kind: int, lists: dict[str | None, list[str]]) -> Telling:
    """Return what an instance says.

    Raises:
        ValueError: An address or a mask is none, or they don't go together.
        KeyError: There is no such ProtocolIFType.
    """
    pairs = zip(lists["IPAddresses"], lists["Subnets"], strict=True)
    addresses = [ip_interface(f"{address}/{subnet}") for address, subnet in pairs]
    hosts = [ip_address(each) for each in (*lists["DefaultGateways"], *lists["DNSServers"])]
    if {each.version for each in (*addresses, *hosts)} - VERSIONS[kind] or (not dhcp and not addresses):
        raise ValueError("another version of IP, or no address")
    if len(lists["DefaultGateways"]) > GATEWAYS:
        raise ValueError("too many gateways")
    return Telling(
        dhcp=dhcp,
        versions=frozenset(VERSIONS[kind]),
        addresses=tuple(map(str, addresses)),
        gateways=tuple(lists["DefaultGateways"]),
        dns=tuple(lists["DNSServers"]),
    )


# --- the classes


def _ports(*, legacy: bool) -> Callable[[Host], list[object]]:
    """List ports of VMs and of their checkpoints."""

    def listed(host: Host) -> list[object]:
        found: list[object] = []
        for machine in host.vmms.machines:
            every: list[Machine | Snapshot] = [machine, *machine._snapshots]
            cards = [(shown, card) for shown in every for card in shown._settings.cards if card.is_legacy is legacy]
            found += [Port(machine, *each) for each in cards]
        return found

    return listed


def _exchanges(host: Host) -> list[object]:
    """List the exchange of VMs that run; each look brings a guest that still starts nearer to its answer."""
    found: list[object] = []
    for machine in host.vmms.machines:
        if machine.state is not State.Running:
            continue
        state = DISABLED if host.trouble.exchange_disabled else ENABLED
        status = [exchange(host, machine)]
        found.append(PSObject.of(SystemName=str(machine.id).upper(), EnabledState=state, OperationalStatus=status))
        machine._silent_looks = max(0, machine._silent_looks - 1)
    return found


def _systems(host: Host) -> list[object]:
    found: list[object] = []
    for machine in host.vmms.machines:
        name = str(machine.id).upper()
        creation = 'CreationClassName="Msvm_ComputerSystem"'
        path = f'\\\\{host.name}\\{VIRTUALIZATION}:Msvm_ComputerSystem.{creation},Name="{name}"'
        found.append(PSObject.of(Name=name, ElementName=machine.name, Path=path))
    return found


def _jobs(host: Host) -> list[object]:
    for each in host.vmms.jobs:
        each._looks += 1
    return list(host.vmms.jobs)


_CLASSES: dict[str, Callable[[Host], list[object]]] = {
    "msvm_concretejob": _jobs,
    "msvm_computersystem": _systems,
    "msvm_emulatedethernetportsettingdata": _ports(legacy=True),
    "msvm_kvpexchangecomponent": _exchanges,
    "msvm_syntheticethernetportsettingdata": _ports(legacy=False),
    "msvm_virtualsystemmanagementservice": lambda host: [Service(host)],
}


@command("Get-WmiObject")
def get_wmi_object(host: Host, call: Call) -> object:
    """Return instances of a class."""
    name = text(call, "Class").lower()
    space = text(call, "Namespace", "root\\cimv2").lower().replace("/", "\\")
    if not host.hyperv or space != VIRTUALIZATION or name not in _CLASSES:
        kind = "System.Management.ManagementException"
        identity = "GetWMIManagementException,Microsoft.PowerShell.Commands.GetWmiObjectCommand"
        raise failure(kind, f'Invalid class "{text(call, "Class")}"', identity, "InvalidType")
    return _CLASSES[name](host)
