"""A first job file for a machine, made of what its agent and a host say of themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bootpoint_common.errors import Code, error
from bootpoint_common.job import Disk, Firmware, Nic, Source, Spec, Storage, Target, Vm, as_json, read_json, write_toml
from bootpoint_common.units import MiB, format_size
from bootpoint_worker.definition import boots

#: Kinds of networks by how likely a standby belongs on one: those first that reach other machines.
_RANKS = {"bridge": 0, "route": 1, "nat": 2, "isolated": 3}

#: The storage that a job file means where it names none.
_DEFAULT_STORAGE = Storage().name


def draft(agent: str, found: Mapping[str, Any], host: Mapping[str, Any]) -> tuple[Spec, str]:
    """Make a job of all disks of a machine.

    Args:
        agent: The machine's agent.
        found: What it said, as in ``disk list``.
        host: The host as ``host show`` has it; what isn't known of it is left to the host.

    Returns:
        The job, and its file: every key, with what can be chosen beside it.

    Raises:
        RefusedError: ``source_ineligible``: no disk can be protected.
    """
    disks = sorted((item for item in found["items"] if item["eligible"]), key=lambda item: not boots(item))
    if not disks:
        raise error(
            Code.SOURCE_INELIGIBLE, f"agent {agent} has no disk that can be protected", key="agent", value=agent
        )
    machine = found.get("machine") or {}
    name = re.sub(r"[^a-z0-9]+", "-", agent.lower()).strip("-")[:63].strip("-") or "job"
    network = _network(host["networks"])
    target = Target(
        host=host["name"],
        vm=_vm(name, machine),
        storage=Storage(name=_storage(host["storages"])),
        nics=tuple(Nic(network=network) for _card in machine.get("nics") or ()),
    )
    slots = tuple(
        Disk(slot="system" if number == 0 else f"disk{number + 1}", id=item["id"]) for number, item in enumerate(disks)
    )
    # A machine in use reaches crash only where nothing can make a snapshot; that is for its owner to accept.
    spec = read_json(as_json(Spec(name=name, source=Source(agent=agent, disks=slots), targets=(target,))))
    notes = {**_disk_notes(disks, found["items"]), **_host_notes(host), **_card_notes(machine.get("nics") or (), host)}
    return spec, write_toml(spec, {key: _line(text) for key, text in notes.items() if text})


def _vm(name: str, machine: Mapping[str, Any]) -> Vm:
    """Return the standby, as large as the source as far as that is known."""
    memory = machine.get("memory_bytes")
    firmware = machine.get("firmware")
    return Vm(
        name=f"{name}-standby",
        cpus=machine.get("cpus"),
        memory_bytes=None if memory is None else max(memory, 64 * MiB),
        firmware=Firmware(firmware) if firmware in set(Firmware) else None,
    )


def _network(networks: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the network of a host that a standby most likely belongs on."""
    order = sorted(networks, key=lambda network: _RANKS.get(network["kind"], len(_RANKS)))
    return order[0]["name"] if order else None


def _storage(storages: Sequence[Mapping[str, Any]]) -> str:
    """Return the host's default storage; the one with most room where it has none of that name."""
    names = [storage["name"] for storage in sorted(storages, key=lambda storage: -storage["free_bytes"])]
    return _DEFAULT_STORAGE if _DEFAULT_STORAGE in names or not names else str(names[0])


def _disk_notes(disks: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    notes = {f"source.disks[{number}]": _disk(item) for number, item in enumerate(disks)}
    refused = [f"{item['id']} ({item['path']}): {item['reason']}" for item in every if not item["eligible"]]
    if refused:
        notes["source"] = "These disks can't be protected (docs/sources.md): " + "; ".join(refused)
    return notes


def _disk(item: Mapping[str, Any]) -> str:
    """Describe a disk: where it is, how large, and what is mounted from it."""
    mounts = [partition.get("mount") for partition in item.get("partitions") or ()]
    mounts += [hold.get("mount") for partition in item.get("partitions") or () for hold in partition.get("holds") or ()]
    where = ", ".join(sorted({mount for mount in mounts if mount}))
    return f"{item['path']}, {format_size(item['size_bytes'])}" + (f": {where}" if where else "")


def _host_notes(host: Mapping[str, Any]) -> dict[str, str]:
    storages = [f"{each['name']} ({format_size(each['free_bytes'])} free)" for each in host["storages"]]
    notes = {"target[0].pool": f"the workers that serve it; default: the host's pool, {host['pool']}"}
    if storages:
        directory = "an absolute directory, or " if host["kind"] == "kvm" else ""
        notes["target[0].storage.name"] = f"{directory}one of {', '.join(storages)}"
    if host["buses"]:
        notes["target[0].storage.bus"] = f"one of {', '.join(host['buses'])}"
    if host["resource_pools"]:
        notes["target[0].storage.resource_pool"] = f"the host's own, or one of {', '.join(host['resource_pools'])}"
    return notes


def _card_notes(cards: Sequence[Mapping[str, Any]], host: Mapping[str, Any]) -> dict[str, str]:
    networks = ", ".join(f"{network['name']} ({network['kind']})" for network in host["networks"])
    notes = {}
    for number, card in enumerate(cards):
        addresses = "".join(f", {address}" for address in card.get("addresses") or ())
        notes[f"target[0].nic[{number}]"] = f"{card['name']}, {card['mac']}{addresses}"
        notes[f"target[0].nic[{number}].network"] = f"one of {networks}" if networks else ""
    return notes


def _line(text: str) -> str:
    """Return what may stand in a comment: it came from other machines."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
