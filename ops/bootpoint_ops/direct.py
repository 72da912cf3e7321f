"""Work on a host with nothing but its own credentials: no database, no broker, no workers, no other installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bootpoint_common.errors import Code, error
from bootpoint_ops.reached import Reached
from bootpoint_worker.hostinfo import (
    LATEST,
    journal_as_json,
    machines_as_json,
    point_of,
    start_point,
    started_as_json,
    started_vm,
    told_as_json,
    vm_as_json,
)
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import StartRequest, Target, TellsAddresses
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.journal import FoundReplica, of_vm
from bootpoint_worker.targets.replica import Replica


@contextmanager
def _session(access: HostAccess) -> Iterator[Target]:
    target = connect(access)
    try:
        yield target
    finally:
        target.close()


def _found(target: Target, access: HostAccess, vm: str) -> FoundReplica:
    found = of_vm(target.find_replicas(), vm)
    if found is None:
        raise error(
            Code.NO_SUCH_VM, f"host {access.name} has no standby {vm} of bootpoint", key="vm", value=vm,
            host=access.name, hint="`bootpoint vm list --direct` lists its VMs",
        )  # fmt: skip
    return found


@contextmanager
def reach_point(access: HostAccess, vm: str, name: str | None) -> Iterator[Reached]:
    """Open a session with a point's host; nothing refers to the point, for there is no database.

    Raises:
        NotFoundError: ``no_such_vm``, ``no_such_point``.
    """
    with _session(access) as target:
        found = _found(target, access, vm)
        point, virt_type = point_of(found.journal, name), access.settings.get("virt_type", "kvm")
        yield Reached(target, found.replica, point, access.name, virt_type)


def vm_list(access: HostAccess) -> list[dict[str, Any]]:
    """Return the host's VMs, standbys and tests with their points."""
    with _session(access) as target:
        return machines_as_json(target.inspect_host().vms, [found.journal for found in target.find_replicas()])


def vm_points(access: HostAccess, vm: str) -> dict[str, Any]:
    """Return a standby and its boot points, as its host's journal has them.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(access) as target:
        return journal_as_json(_found(target, access, vm).journal)


def job_of(access: HostAccess, vm: str) -> str:
    """Return the name of the job that a standby belongs to.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(access) as target:
        return _found(target, access, vm).journal.job


def vm_start(
    access: HostAccess,
    vm: str,
    point: str | None,
    *,
    test_id: str | None,
    serial_log: str | None,
    conversion: str,
    guest_seconds: float,
) -> dict[str, Any]:
    """Start a standby from a boot point, and tell its guest its addresses where its host can.

    Raises:
        NotFoundError: ``no_such_vm``, ``no_such_point``.
        RefusedError: ``standby_running``.
        FatalError: ``conversion_failed``.
    """
    with _session(access) as target:
        found = _found(target, access, vm)
        chosen = start_point(found.journal, point, test_id)
        request = StartRequest(
            point_id=chosen.point_id, test_id=test_id, serial_log=serial_log, conversion=conversion
        )
        started = target.start(found.replica, request)
        journal = target.inspect(found.replica)
        profile = journal.profile if journal is not None else None
        told = [] if test_id else _told(target, found.replica, guest_seconds)
        return {**started_as_json(started, profile), "point": chosen.name, "addresses": told}


def _told(target: Target, replica: Replica, guest_seconds: float) -> list[dict[str, Any]]:
    return told_as_json(target.tell_addresses(replica, guest_seconds) if isinstance(target, TellsAddresses) else ())


def vm_address(access: HostAccess, vm: str, guest_seconds: float) -> dict[str, Any]:
    """Tell the guest of a standby that runs its addresses, as its start does.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(access) as target:
        found = _found(target, access, vm)
        return {"name": found.journal.vm_name, "addresses": _told(target, found.replica, guest_seconds)}


def vm_stop(access: HostAccess, vm: str, *, test_id: str | None) -> dict[str, Any]:
    """Stop a standby, or a test of it.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(access) as target:
        found = _found(target, access, vm)
        name = started_vm(found.journal, test_id)
        target.stop(found.replica, test_id)
        return {"name": name, "state": "off", "replica_id": str(found.journal.replica_id)}


def vm_revert(access: HostAccess, vm: str, point: str) -> dict[str, Any]:
    """Let a standby stand on a boot point; ``latest`` lets it follow the newest again.

    Raises:
        NotFoundError: ``no_such_vm``, ``no_such_point``.
        RefusedError: ``standby_running``.
    """
    with _session(access) as target:
        found = _found(target, access, vm)
        chosen, held = point_of(found.journal, point), point != LATEST
        machine = target.revert(found.replica, chosen.point_id if held else None)
        return {**vm_as_json(machine), "point": chosen.name, "held": held}
