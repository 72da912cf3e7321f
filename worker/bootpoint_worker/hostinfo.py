"""What a host says of itself, its VMs and their boot points, as JSON for the command line and the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.standing import uses
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import HostInfo, Told, VirtualMachine
from bootpoint_worker.targets.journal import Journal, JournalPoint

#: What stands for the newest point in a command.
LATEST = "latest"


def info_as_json(info: HostInfo, driver: Target) -> dict[str, Any]:
    """Return a host's answer, with what its driver can, as it is kept in ``host.info``."""
    written: dict[str, Any] = msgspec.to_builtins(info)
    return {**written, "point_limit": driver.point_limit}


def vm_as_json(machine: VirtualMachine) -> dict[str, Any]:
    """Return a VM, as every answer about one begins."""
    written: dict[str, Any] = msgspec.to_builtins(machine)
    return written


def started_as_json(machine: VirtualMachine, profile: Profile | None) -> dict[str, Any]:
    """Return what ``vm start`` says: the VM, and what is known of the machine in it."""
    return {**vm_as_json(machine), "profile": None if profile is None else msgspec.to_builtins(profile)}


def told_as_json(told: Iterable[Told]) -> list[dict[str, Any]]:
    """Return what came of telling a guest its addresses, card by card."""
    return [msgspec.to_builtins(each) for each in told]


def machines_as_json(machines: Sequence[VirtualMachine], journals: Iterable[Journal]) -> list[dict[str, Any]]:
    """Return the lines of ``vm list``: every VM of a host, standbys and tests with their points.

    Args:
        machines: What the hypervisor has.
        journals: The replicas that are known there.
    """
    known = {}
    for journal in journals:
        known[journal.vm_name] = (journal, journal.standing)
        known |= {stands.vm_name: (journal, stands) for stands in journal.standings}
    items = []
    for machine in machines:
        ours, stands = known.get(machine.name, (None, None))
        if ours is not None and ours.replica_id != machine.replica_id:
            ours, stands = None, None
        on = ours.point(stands.point_id) if ours is not None and stands is not None else None
        items.append(
            {
                **vm_as_json(machine),
                "standby": ours is not None and machine.name == ours.vm_name,
                "test_id": None if stands is None else stands.test_id,
                "job": None if ours is None else ours.job,
                "points": None if ours is None else len(ours.points),
                "newest": None if ours is None or ours.head is None else ours.head.name,
                "stands_on": None if on is None else on.name,
                "held": None if stands is None else stands.held,
            }
        )
    return items


def journal_as_json(journal: Journal) -> dict[str, Any]:
    """Return what a host itself knows of a standby and its points: the answer to ``vm points``."""
    stands = journal.standing
    on = journal.point(stands.point_id) if stands is not None else None
    return {
        "vm": journal.vm_name,
        "uuid": journal.vm_uuid,
        "job": journal.job,
        "state": journal.standby,
        "stands_on": None if on is None else on.name,
        "held": stands is not None and stands.held,
        "drift": journal.drift,
        "items": _points(journal),
    }


def _points(journal: Journal) -> list[dict[str, Any]]:
    in_use: dict[UUID, list[dict[str, Any]]] = {}
    for (kind, holder), point_id in uses(journal).items():
        in_use.setdefault(point_id, []).append({"kind": kind, "holder": holder, "until": None})
    return [
        {
            "name": point.name,
            "kind": point.kind,
            "consistency": point.consistency,
            "instant": point.instant.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "epoch": point.epoch,
            "stored_bytes": sum(disk.stored_bytes for disk in point.disks),
            "standby": journal.standing is not None and journal.standing.point_id == point.point_id,
            "in_use_by": in_use.get(point.point_id, []),
            "disks": [
                {
                    "slot": disk.slot,
                    "size_bytes": disk.size_bytes,
                    "identity": disk.identity,
                    "read_digest": f"b3:{disk.root}",
                }
                for disk in point.disks
            ],
        }
        for point in journal.points
    ]


def point_of(journal: Journal, name: str | None) -> JournalPoint:
    """Return a point by its name, or the head for ``latest`` and None.

    Raises:
        NotFoundError: ``no_such_point``.
    """
    for point in reversed(journal.points):
        if name in (None, LATEST, point.name):
            return point
    newest = ", ".join(point.name for point in journal.points[-3:])
    text = f"{journal.vm_name} has no boot point {name}" if newest else f"{journal.vm_name} has no boot point yet"
    hint = f"the newest are {newest}; `bootpoint vm points` lists all" if newest else None
    raise error(Code.NO_SUCH_POINT, text, key="point", value=name, hint=hint, job=journal.job)


def start_point(journal: Journal, name: str | None, test_id: str | None) -> JournalPoint:
    """Return the point that a start means: the named one, else where the standby was reverted to, else the newest.

    Raises:
        NotFoundError: ``no_such_point``.
    """
    stands = journal.standing
    if name is None and test_id is None and stands is not None and stands.held:
        held = journal.point(stands.point_id)
        if held is not None:
            return held
    return point_of(journal, name)


def started_vm(journal: Journal, test_id: str | None) -> str:
    """Return the name of the VM that a stop means: the standby, or a test's.

    Raises:
        NotFoundError: ``no_such_vm``: there is no such test.
    """
    if test_id is None:
        return journal.vm_name
    for stands in journal.standings:
        if stands.test_id == test_id:
            return stands.vm_name
    text = f"{journal.vm_name} has no test {test_id}"
    raise error(Code.NO_SUCH_VM, text, key="--test", value=test_id, job=journal.job)


def unsupported(host: str, info: HostInfo) -> BootpointError | None:
    """Return the error of a host that lacks something; None when all is well."""
    if not info.problems:
        return None
    text = "; ".join(problem.rstrip(".") for problem in info.problems)
    return error(Code.HOST_UNSUPPORTED, f"host {host} lacks something: {text}", host=host)
