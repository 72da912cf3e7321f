"""A target host as ``bootpoint host`` prints it."""

from __future__ import annotations

from typing import Any

from bootpoint_common.units import format_size
from bootpoint_ops import read
from bootpoint_ops.cli.output import Session, emit, fields


def show_host(here: Session, name: str) -> None:
    """Print a host as it was at its last check."""
    with here.env.database.transaction() as connection:
        item = read.host(connection, name)
    storages = [
        f"{s['name']}: {format_size(s['free_bytes'])} free of {format_size(s['size_bytes'])}, {s['path']}"
        for s in item["storages"]
    ]
    pairs = [
        *(
            ("name", item["name"]),
            ("kind", item["kind"]),
            ("address", f"{item['user']}@{item['address']}:{item['port']}"),
        ),
        *([("virt type", item["virt_type"])] if item["kind"] == "kvm" else []),
        *(("pool", item["pool"]), ("credentials", item["credentials"])),
        *(("fingerprint", item["fingerprint"]), ("state", item["state"]), ("reason", item["reason"])),
        *(("checked", item["checked_at"]), ("version", item["version"]), ("cpus", item["cpus"])),
        ("memory", format_size(item["memory_bytes"])),
        ("storages", "\n".join(storages)),
        ("networks", ", ".join(f"{network['name']} ({network['kind']})" for network in item["networks"])),
        *(_esxi_pairs(item) if item["kind"] == "esxi" else []),
        *([("cluster", _cluster(item["cluster"]))] if item["kind"] == "hyperv" else []),
        ("problems", "\n".join(item["problems"])),
        ("hints", "\n".join(item["hints"])),
        (
            "replicas",
            "\n".join(
                f"{r['job']}: {r['vm']}, {r['points']} points, {format_size(r['stored_bytes'])}"
                for r in item["replicas"]
            ),
        ),
    ]
    emit(item, fields(pairs))


def _esxi_pairs(item: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("licence", item["licence"]),
        ("resource pools", ", ".join(item["resource_pools"])),
        ("hardware versions", ", ".join(item["hardware_versions"])),
        ("disk library", item["disk_library"]),
    ]


def _cluster(cluster: dict[str, Any] | None) -> str | None:
    """Return a cluster's name with its nodes; the host's own is marked."""
    if cluster is None:
        return None
    nodes = [
        f"{node['name']} ({node['state']}{', this one' if node['name'].lower() == cluster['node'].lower() else ''})"
        for node in cluster["nodes"]
    ]
    return f"{cluster['name'] or 'unknown'}: {', '.join(nodes) or cluster['node']}"
