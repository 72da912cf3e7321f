"""What a host is and has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from bootpoint_common.units import MiB
from bootpoint_worker.targets.host import HostInfo, Network, Storage
from bootpoint_worker.targets.kvm import domain, script
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.means import hints
from bootpoint_worker.targets.kvm.session import LocalSession, check

#: Oldest versions that have what is used here, as libvirt counts them (major * 1,000,000 + minor * 1,000).
OLDEST_LIBVIRT, OLDEST_QEMU = 6_000_000, 4_000_000

#: Tool -> where it comes from.
REMEDIES = {
    "qemu-img": "install qemu-utils (Debian) or qemu-img (Red Hat)",
    "qemu-nbd": "install qemu-utils (Debian) or qemu-img (Red Hat)",
    "flock": "install util-linux",
    "setsid": "install util-linux",
    "sync": "install coreutils",
    "sha256sum": "install coreutils",
    "timeout": "install coreutils",
    "nc": "install netcat-openbsd (Debian) or nmap-ncat (Red Hat)",
}


def inspect_host(host: Host, storages: Sequence[str] = ()) -> HostInfo:
    """Ask the host; see `Target.inspect_host`."""
    pools = host.hypervisor.pools()
    plain = [path for path in storages if path.startswith("/")]
    probe = _probe(host, *pools.values(), *plain)
    pools |= {path: path for path in plain if path in probe.rooms}
    with host.hypervisor.connection() as connection:
        libvirt, qemu = connection.getLibVersion(), connection.getVersion()
        facts = connection.getInfo()
        bridged = {network.name(): _bridge(network) for network in connection.listAllNetworks()}
    own = set(bridged.values())
    networks = [Network(name, kind) for name, kind in sorted(host.hypervisor.networks().items())]
    networks += [Network(name, "bridge") for name in probe.bridges if name not in own]
    return HostInfo(
        version=f"libvirt {_dotted(libvirt)}, qemu {_dotted(qemu)}",
        cpus=facts[2],
        memory_bytes=facts[1] * MiB,
        storages=tuple(Storage(name, path, *probe.rooms.get(path, (0, 0))) for name, path in sorted(pools.items())),
        networks=tuple(networks),
        buses=tuple(domain.BUSES),
        nic_models=domain.NIC_MODELS,
        vms=tuple(vm for vm, _ in host.hypervisor.machines()),
        problems=_problems(host, probe, libvirt, qemu),
        hints=hints(host),
        running_memory_bytes=host.hypervisor.running_memory_bytes(),
        large_sector_buses=domain.LARGE_SECTOR_BUSES,
    )


def problems(host: Host) -> tuple[str, ...]:
    """Return what the host lacks, each a sentence with its remedy."""
    probe = _probe(host)
    with host.hypervisor.connection() as connection:
        return _problems(host, probe, connection.getLibVersion(), connection.getVersion())


def has_uefi(host: Host) -> bool:
    """Tell whether the host has UEFI firmware for VMs."""
    with host.hypervisor.connection() as connection:
        xml = connection.getDomainCapabilities(None, "x86_64", "q35", host.virt_type)
    values = ET.fromstring(xml).iterfind("./os/enum[@name='firmware']/value")  # noqa: S314 - libvirtd made it
    return any(value.text == "efi" for value in values)


class _Probe:
    """What the probe script said."""

    def __init__(self, text: str) -> None:
        self.missing: list[str] = []
        self.bridges: list[str] = []
        self.rooms: dict[str, tuple[int, int]] = {}
        self.qemu_img = 0
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "missing":
                self.missing.append(rest)
            elif word == "bridge":
                self.bridges.append(rest)
            elif word == "room":
                block, blocks, free, path = rest.split(" ", 3)
                self.rooms[path] = (int(block) * int(blocks), int(block) * int(free))
            elif word == "qemu-img" and (version := re.search(r"version (\d+)\.(\d+)", rest)):
                self.qemu_img = int(version[1]) * 1_000_000 + int(version[2]) * 1_000


def _probe(host: Host, *directories: str) -> _Probe:
    result = host.session.run(script.script("probe"), *directories)
    return _Probe(check(host.session, result, "say what it has").text)


def _problems(host: Host, probe: _Probe, libvirt: int, qemu: int) -> tuple[str, ...]:
    local = isinstance(host.session, LocalSession)
    found = [f"{tool} is missing: {REMEDIES[tool]}" for tool in probe.missing if not (local and tool == "nc")]
    if libvirt < OLDEST_LIBVIRT:
        found.append(f"libvirt {_dotted(libvirt)} is too old: update to {_dotted(OLDEST_LIBVIRT)} or later")
    oldest = min(qemu, probe.qemu_img or qemu)
    if oldest < OLDEST_QEMU:
        found.append(f"qemu {_dotted(oldest)} is too old: update to {_dotted(OLDEST_QEMU)} or later")
    return tuple(found)


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}"


def _bridge(network: object) -> str:
    xml = network.XMLDesc()  # type: ignore[attr-defined]  # libvirt's bindings have no types
    found = re.search(r"<bridge name=['\"]([^'\"]+)", xml)
    return found[1] if found else ""
