"""Reads the ``[[target]]`` tables of a job file."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from bootpoint_common.job import address, value
from bootpoint_common.job.table import BadValue, Table
from bootpoint_common.job.target import Firmware, Ip, IpMode, Nic, Provisioning, Storage, Target, Vm
from bootpoint_common.units import MiB, TiB

#: Fewest and most boot points of any host kind. Fewer than 3 would leave nothing to go back to while one is
#: consolidated; 30 is what ESXi's 32 snapshot levels allow. A kind may allow less.
FEWEST_POINTS, MOST_POINTS = 3, 30

#: Disk buses that some driver knows; which of them a host has is asked of the host.
_BUSES = ("virtio", "scsi", "sata", "ide", "pvscsi", "lsilogic", "lsisas", "nvme")

_POOL = value.matching("[A-Za-z0-9][A-Za-z0-9_-]{0,62}", "a pool's name: letters, digits, _ and -")
_VM_NAME = value.matching(
    "[A-Za-z0-9][A-Za-z0-9 ._-]{0,78}[A-Za-z0-9]|[A-Za-z0-9]", "a VM's name: letters, digits and ._-"
)
_MODEL = value.matching("[A-Za-z0-9][A-Za-z0-9_-]{0,30}", 'a device model, such as "virtio"')
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,100}", re.ASCII)


def read_targets(table: Table, *, job: str, host_name: Callable[[object], str]) -> tuple[Target, ...]:
    """Read every target of a job file.

    Args:
        table: The file's outermost table.
        job: The job's name, of which the VM's default is made.
        host_name: Reads a host's name.
    """
    targets: list[Target] = []
    entries = table.tables("target")
    for entry in entries:
        target = _target(entry, job, host_name)
        if target.host in [other.host for other in targets]:
            entry.problem("host", f"{target.host!r} has a target above", hint="a job has one replica on each host")
        targets.append(target)
    if not table.has("target") or not entries:
        table.problem("target", "is missing: a job needs at least one", hint='add [[target]] with host = "…"')
    return tuple(targets)


def _target(table: Table, job: str, host_name: Callable[[object], str]) -> Target:
    target = Target(
        host=table.require("host", host_name, table.key("host")),
        pool=table.take("pool", _POOL, None),
        points=table.take("points", value.integer(FEWEST_POINTS, MOST_POINTS), 14),
        lag_limit_seconds=table.take("lag_limit", value.duration(60.0), 43200.0),
        vm=_vm(table.table("vm"), job),
        storage=_storage(table.table("storage")),
        nics=tuple(_nic(entry) for entry in table.tables("nic")),
    )
    addresses = [nic.mac for nic in target.nics]
    for number, nic in enumerate(target.nics):
        if ":" in nic.mac and nic.mac in addresses[:number]:
            table.problem(f"nic[{number}].mac", f"{nic.mac} is another card's", hint="give each card its own")
    table.end()
    return target


def _vm(table: Table, job: str) -> Vm:
    vm = Vm(
        name=table.take("name", _VM_NAME, f"{job}-standby"),
        cpus=table.take("cpus", value.integer(1, 1024), None),
        memory_bytes=table.take("memory", value.size(64 * MiB, 64 * TiB), None),
        firmware=table.take("firmware", value.member(Firmware), None),
    )
    table.end()
    return vm


def _storage(table: Table) -> Storage:
    storage = Storage(
        name=table.take("name", value.text, "default"),
        folder=table.take("folder", value.relative_folder, ""),
        disk_name=table.take("disk_name", _disk_name, "{vm}-{slot}"),
        provisioning=table.take("provisioning", value.member(Provisioning), Provisioning.THIN),
        bus=table.take("bus", value.choice(_BUSES), None),
        resource_pool=table.take("resource_pool", _optional_text, ""),
    )
    table.end()
    return storage


def _optional_text(found: object) -> str:
    return "" if found == "" else value.text(found)


def _disk_name(found: object) -> str:
    name = value.text(found)
    for placeholder in _PLACEHOLDER.findall(name):
        if placeholder not in ("{vm}", "{slot}"):
            raise BadValue(f"{placeholder} stands for nothing; only {{vm}} and {{slot}} do")
    if _STEM.fullmatch(name.replace("{vm}", "vm").replace("{slot}", "slot")) is None:
        raise BadValue(f"{name!r} is no file name: letters, digits, spaces and ._-, with {{vm}} and {{slot}}")
    return name


def _nic(table: Table) -> Nic:
    nic = Nic(
        network=table.take("network", value.text, None),
        model=table.take("model", _MODEL, None),
        mac=table.take("mac", address.mac, "new"),
        ip=_ip(table.table("ip")),
        connect=table.take("connect", value.boolean, True),
    )
    table.end()
    return nic


def _ip(table: Table) -> Ip:
    mode = table.take("mode", value.member(IpMode), IpMode.SOURCE)
    ip = Ip(
        mode=mode,
        address=table.take("address", address.ip_interface, None),
        gateway=table.take("gateway", address.ip_address, None),
        dns=table.items("dns", address.ip_address, filled=False),
    )
    if mode is IpMode.STATIC:
        if not table.has("address"):
            table.problem("address", 'is missing: mode is "static"', hint='write it as in "10.9.0.21/24"')
    else:
        for key, given in (("address", ip.address), ("gateway", ip.gateway), ("dns", ip.dns)):
            if given:
                table.problem(
                    key, f"has no meaning while mode is {mode.value!r}", hint='write mode = "static", or remove it'
                )
    if ip.address and ip.gateway:
        versions = {ipaddress.ip_interface(ip.address).version, ipaddress.ip_address(ip.gateway).version}
        if len(versions) > 1:
            table.problem("gateway", "and address are of different IP versions", value=ip.gateway)
    table.end()
    return ip
