"""VMs and what they are made of, as the module's answers have them."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from bootpoint_worker.targets.hyperv.hardware import Spot
from bootpoint_worker.targets.hyperv.session import HyperVSession
from bootpoint_worker.targets.snapshots.vm import Drive, Node, State, Vm, owner

#: The line of a VM's notes that says which point its leaves are open for. The notes are in a checkpoint too, so they
#: tell of a checkpoint which point it was made for, and a revert brings older ones back.
_MARK = re.compile(r"^bootpoint-open: (\S+)\s*$", re.MULTILINE)

#: Names of points: a checkpoint that somebody else makes while a point is open has its notes, and another name.
_POINT = re.compile(r"V\d{8}_\d{6}")


def marked(notes: str, point_id: UUID) -> str:
    """Return a VM's notes with the mark of a point, in place of one that is there."""
    return f"{_MARK.sub('', notes).rstrip()}\nbootpoint-open: {point_id}"


def vm_of(said: dict[str, Any], session: HyperVSession) -> Vm:
    """Return a VM of the host, or the node, that a session is with."""
    replica_id, test_id = owner(said["notes"] or "")
    return Vm(
        id=said["id"],
        name=said["name"],
        on=said["state"] != "Off",
        directory=(said["folder"] or "").rstrip("\\") or None,
        uuid=str(UUID(said["id"])),
        replica_id=replica_id,
        test_id=test_id,
        memory_bytes=said["memory"],
        entity=session,
    )


def drives_of(said: list[dict[str, Any]]) -> tuple[Drive, ...]:
    """Return disks, in the order of their places."""
    drives = [Drive(Spot(each["kind"], each["number"], each["location"]).key, each["path"]) for each in said]
    return tuple(sorted(drives, key=lambda drive: drive.key))


def state_of(said: dict[str, Any]) -> State:
    """Return what a VM is made of."""
    checkpoints = said["checkpoints"]
    children: dict[str | None, list[str]] = {}
    for each in checkpoints:
        children.setdefault(each["parent"], []).append(each["id"])
    mark = _MARK.search(said["machine"]["notes"] or "")
    return State(
        on=said["machine"]["state"] != "Off",
        drives=drives_of(said["drives"]),
        current=said["current"],
        tree={each["id"]: _node(each, tuple(children.get(each["id"], ()))) for each in checkpoints},
        unmerged=said["merging"],
        mark=mark[1] if mark else None,
        devices=said,
    )


def _node(said: dict[str, Any], children: tuple[str, ...]) -> Node:
    mark = _MARK.search(said["notes"] or "") if _POINT.fullmatch(said["name"]) else None
    return Node(said["id"], said["name"], UUID(mark[1]) if mark else None, said["parent"], children)
