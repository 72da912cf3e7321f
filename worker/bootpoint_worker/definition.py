"""From a job and what is known of its source and its host to the standby VM: the `Replica` that drivers make.

What a job file leaves out is as on the source; what isn't known there either has a sane fallback. What was made once
stays where an edit can't reach it: MAC addresses, the stems of disk files, the firmware.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Disk, Ip, IpMode, Spec, Target, read_json
from bootpoint_common.message import RunDisk
from bootpoint_common.units import SECTOR, MiB
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.replica import Addressing, Nic, Replica, ReplicaDisk, new_mac

#: CPUs and memory of a standby whose source never told what it has.
FALLBACK_CPUS = 1
FALLBACK_MEMORY = 512 * MiB

#: Longest slot, as in the job file.
_SLOT_LENGTH = 31


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """A disk that a job selects, as the source's inventory has it.

    Attributes:
        slot: Its place in the job.
        id: As in the job file.
        size_bytes: Its size; 0 where the source never told (its offer does).
        used_bytes: What its file systems use; None where that isn't known.
        sector_bytes: Its logical sectors; None where the source never told.
        tracker: What finds its changes; None where the source never told.
        tracker_reason: Why it is that one, for people.
    """

    slot: str
    id: str
    size_bytes: int
    used_bytes: int | None = None
    sector_bytes: int | None = None
    tracker: str | None = None
    tracker_reason: str | None = None


def slot_of(disk_id: str) -> str:
    """Return the slot of a disk that no job file names: made of its id alone, so that it is the same at every run."""
    kind, _, value = disk_id.partition(":")
    if kind == "file":
        value = value.rpartition("/")[2].partition(".")[0]
    plain = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
    return plain[-_SLOT_LENGTH:].strip("-") or "disk"


def selected(spec: Spec, inventory: Mapping[str, Any] | None, *, fresh: bool = False) -> tuple[SourceDisk, ...]:
    """Return the disks that a job protects, the boot disk first.

    Args:
        spec: The job.
        inventory: What ``disk list`` says of its source; None where the source never told.
        fresh: Whether the source has just told. Else a listed disk that it lacked then may be there by now: the agent
            looks again before it touches anything.

    Raises:
        RetryableError: ``agent_offline``: all disks are to be protected, and nothing is known of them.
        FatalError: ``disk_missing``.
        RefusedError: ``source_ineligible``.
    """
    listed = spec.source.disks
    if inventory is None:
        if listed is None:
            raise _untold(spec)
        return tuple(SourceDisk(disk.slot, disk.id, 0) for disk in listed)
    items = {item["id"]: item for item in inventory["items"]}
    if listed is not None:
        return tuple(_listed(spec, number, disk, items, fresh=fresh) for number, disk in enumerate(listed))
    eligible = [item for item in items.values() if item["eligible"]]
    if not eligible:
        raise error(
            Code.SOURCE_INELIGIBLE,
            f"agent {spec.source.agent} has no disk that can be protected",
            job=spec.name,
            key="source.disks",
            value="all",
        )
    found: dict[str, SourceDisk] = {}
    for item in sorted(eligible, key=lambda item: (not boots(item), item["path"])):
        slot = slot_of(item["id"])
        if slot in found:  # two files of one name in different folders
            slot = f"{slot[: _SLOT_LENGTH - 4]}-{len(found) + 1}"
        found[slot] = _source_disk(slot, item)
    return tuple(found.values())


def _untold(spec: Spec) -> BootpointError:
    return error(
        Code.AGENT_OFFLINE,
        f"agent {spec.source.agent} has not told its disks yet, and the job protects all of them",
        job=spec.name,
        key="source.disks",
        value="all",
        hint=f"start the agent and ask it: `bootpoint disk list {spec.source.agent}`",
    )


def run_disks(spec: Mapping[str, Any], inventory: Mapping[str, Any] | None) -> list[RunDisk]:
    """Return the disks that an agent is told to protect: those of `selected`, from the job as JSON."""
    return [RunDisk(slot=disk.slot, id=disk.id) for disk in selected(read_json(dict(spec)), inventory)]


def _listed(
    spec: Spec, number: int, disk: Disk, items: Mapping[str, Mapping[str, Any]], *, fresh: bool
) -> SourceDisk:
    key = f"source.disks[{number}].id"
    item = items.get(disk.id)
    if not fresh and (item is None or item.get("reason") == "offline"):
        return SourceDisk(disk.slot, disk.id, 0)
    if item is None:
        raise error(
            Code.DISK_MISSING, f"agent {spec.source.agent} has no disk {disk.id}", job=spec.name, key=key, value=disk.id
        )
    if not item["eligible"]:
        raise error(
            Code.SOURCE_INELIGIBLE,
            f"disk {disk.id} of agent {spec.source.agent} can't be protected: {item['reason']}",
            job=spec.name,
            key=key,
            value=disk.id,
        )
    return _source_disk(disk.slot, item)


def _source_disk(slot: str, item: Mapping[str, Any]) -> SourceDisk:
    sector = item.get("logical_sector_bytes")
    return SourceDisk(
        slot, item["id"], item["size_bytes"], item.get("used_bytes"), sector or None, item.get("tracker"),
        item.get("tracker_reason"),
    )  # fmt: skip


def boots(item: Mapping[str, Any]) -> bool:
    """Say whether the running system's root or boot file system lies on a disk."""
    mounts: set[str | None] = set()
    for partition in item.get("partitions", ()):
        mounts.add(partition.get("mount"))
        mounts.update(hold.get("mount") for hold in partition.get("holds", ()))
    return bool(mounts & {"/", "/boot", "/boot/efi"})


def build(
    replica_id: UUID,
    spec: Spec,
    target: Target,
    *,
    disks: Sequence[SourceDisk],
    machine: Mapping[str, Any] | None,
    info: HostInfo,
    previous: Replica | None = None,
    mac: Callable[[], str] | None = None,
) -> Replica:
    """Work out the standby VM of a job on one host.

    Args:
        replica_id: Id of the replica.
        spec: The job.
        target: The host's part of the job.
        disks: The disks, from `selected` or from the source's offer.
        machine: ``machine`` of ``disk list``; None where the source never told.
        info: The host as it answers now.
        previous: The VM as it was made before; what an edit can't change stays as it is.
        mac: Makes a new MAC address; None for one of the host's kind.

    Returns:
        The VM as the host is to have it after the next commit.

    Raises:
        FatalError: ``network_unknown``: no network is named and the host has several, or the host has no such network.
    """
    known = machine or {}
    vm, storage = target.vm, target.storage
    before = {disk.slot: disk for disk in previous.disks} if previous is not None else {}
    return Replica(
        replica_id=replica_id,
        job=spec.name,
        vm_name=vm.name,
        storage=storage.name,
        folder=storage.folder,
        cpus=vm.cpus or known.get("cpus") or (previous.cpus if previous else FALLBACK_CPUS),
        memory_bytes=vm.memory_bytes
        or known.get("memory_bytes")
        or (previous.memory_bytes if previous else FALLBACK_MEMORY),
        firmware=_firmware(target, known, previous),
        disks=tuple(
            ReplicaDisk(
                slot=disk.slot,
                size_bytes=disk.size_bytes,
                disk_name=before[disk.slot].disk_name if disk.slot in before else storage.disk_stem(vm.name, disk.slot),
                bus=storage.bus or _first(info.buses, "virtio"),
                provisioning=storage.provisioning.value,
                sector_bytes=disk.sector_bytes or (before[disk.slot].sector_bytes if disk.slot in before else SECTOR),
            )
            for disk in disks
        ),
        nics=_nics(target, known.get("nics"), info, previous, mac or partial(new_mac, info.mac_prefix)),
        resource_pool=storage.resource_pool,
    )


def _firmware(target: Target, machine: Mapping[str, Any], previous: Replica | None) -> str:
    if previous is not None:
        return previous.firmware
    if target.vm.firmware is not None:
        return target.vm.firmware.value
    return str(machine.get("firmware") or "bios")


def _nics(
    target: Target,
    sources: Sequence[Mapping[str, Any]] | None,
    info: HostInfo,
    previous: Replica | None,
    mac: Callable[[], str],
) -> tuple[Nic, ...]:
    """Return the network cards: those of the job file, else one for each card of the source (one if it never told)."""
    count = len(target.nics) or (1 if sources is None else len(sources))
    before = previous.nics if previous is not None else ()
    made = []
    for number in range(count):
        wanted = target.nics[number] if target.nics else None
        network = _network(target, number, wanted.network if wanted else None, info)
        model = (wanted.model if wanted else None) or _first(info.nic_models, "virtio")
        kept = before[number].mac if number < len(before) else None
        source = sources[number] if sources is not None and number < len(sources) else {}
        address = _mac(wanted.mac if wanted else "new", kept, source.get("mac"), mac)
        made.append(
            Nic(
                network=network,
                model=model,
                mac=address,
                connect=wanted.connect if wanted else True,
                addressing=_addressing(wanted.ip if wanted else Ip(), source),
            )
        )
    return tuple(made)


def _addressing(wanted: Ip, source: Mapping[str, Any]) -> Addressing:
    name, mac = source.get("name"), source.get("mac")
    if wanted.mode is IpMode.SOURCE:
        return Addressing("source", name, mac, tuple(source.get("addresses") or ()), source.get("gateway"))
    addresses = (wanted.address,) if wanted.address else ()
    return Addressing(wanted.mode.value, name, mac, addresses, wanted.gateway, wanted.dns)


def _mac(wanted: str, kept: str | None, source: str | None, mac: Callable[[], str]) -> str:
    if wanted == "keep":
        return source or kept or mac()
    if wanted != "new":
        return wanted
    # "new" is new once: a card that changed its address at every commit would lose its name in the guest. One that
    # was kept from the source until now is replaced.
    return kept if kept is not None and kept != source else mac()


def _network(target: Target, number: int, wanted: str | None, info: HostInfo) -> str | None:
    names = [network.name for network in info.networks]
    key = f"target.nic[{number}].network"
    listed = ", ".join(names) or "none"
    if wanted is not None:
        if wanted not in names:
            raise error(
                Code.NETWORK_UNKNOWN,
                f"host {target.host} has no network {wanted}; it has: {listed}",
                key=key,
                value=wanted,
                host=target.host,
            )
        return wanted
    if len(names) > 1:
        raise error(
            Code.NETWORK_UNKNOWN,
            f"host {target.host} has several networks ({listed}): say which one the standby is on",
            key=key,
            hint='name it with [[target.nic]] network = "…" in the job file',
            host=target.host,
        )
    return names[0] if names else None


def _first(values: Sequence[str], fallback: str) -> str:
    """Return the host's first choice; virtio wherever there is any, for all else is slower."""
    return fallback if fallback in values or not values else values[0]
