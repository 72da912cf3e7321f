"""Everything that can be said before the source is touched: may this run begin, and what will it cost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Provisioning, Spec, Target, read_json
from bootpoint_common.store import host as hosts
from bootpoint_common.store.host import Host
from bootpoint_common.store.job import ReplicaRow
from bootpoint_common.store.run import Run
from bootpoint_common.units import MiB, format_size
from bootpoint_worker import room, sector
from bootpoint_worker.context import Context
from bootpoint_worker.definition import SourceDisk, build, selected
from bootpoint_worker.expectation import Expected, Known, known_of, work_out
from bootpoint_worker.hostinfo import info_as_json, unsupported
from bootpoint_worker.replica import from_json, keep_definition
from bootpoint_worker.targets.base import Target as Driver
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.replica import Replica

#: An increment may need this many times what the last one changed.
INCREMENT_FACTOR = 2

#: Free bytes that an increment needs at least for each disk: qcow2's tables and a busy day after a quiet one.
INCREMENT_FLOOR = 64 * MiB

#: Kinds of hosts that nobody logs in to, and the address that means "this machine".
_NO_LOGIN = ("fake",)
_LOCAL = "local"

#: The job file's key that an error of a driver is about.
_KEYS = {
    Code.VM_NAME_TAKEN: "vm.name",
    Code.STORAGE_UNKNOWN: "storage.name",
    Code.NETWORK_UNKNOWN: "nic.network",
    Code.HOST_FULL: "storage.name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Expected):
    """What a run will do on one host that was asked.

    Attributes:
        replica: The standby VM as it is to be made.
        disks: The source's disks.
        line: What the run has to wait for before it begins; None when nothing.
    """

    replica: Replica
    disks: tuple[SourceDisk, ...]
    line: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the ``plan`` of ``run show``."""
        return {
            "kind": self.kind,
            "reason": self.reason,
            "changed_bytes": self.changed_bytes,
            "duration_seconds": self.duration_seconds,
        }


def preflight(context: Context, found: Run, row: ReplicaRow) -> Plan:
    """Check one target of a run before it begins, and keep the standby VM that `open` is to make.

    Args:
        context: Database and sessions.
        found: The run; its job still exists.
        row: The job's replica on the host.

    Returns:
        What the run will do.

    Raises:
        BootpointError: Why it can't begin; names the job file's key and the way out.
    """
    if found.spec is None:
        raise error(Code.NO_SUCH_JOB, f"job {found.job_name} was deleted", job=found.job_name)
    plan = check(context, read_json(found.spec), found.agent_id, row, since=found.due_at)
    with context.database.transaction() as connection:
        keep_definition(connection, plan.replica)
    return plan


def check(
    context: Context,
    spec: Spec,
    agent_id: UUID,
    row: ReplicaRow,
    *,
    fresh: bool = False,
    since: datetime | None = None,
) -> Plan:
    """Check one target of a job without a trace on the source, on the host, or in the job.

    Args:
        context: Database and sessions.
        spec: The job; it need not be stored yet.
        agent_id: Its source.
        row: Its replica on the host; it need not be stored yet.
        fresh: Whether the source has just told its disks.
        since: When the run was asked for; None when nobody runs.

    Returns:
        What a run would do.

    Raises:
        BootpointError: As `preflight` does.
    """
    number, wanted = target_of(spec, row.host)
    try:
        with context.database.transaction() as connection:
            known = known_of(connection, agent_id, row)
        require_login(known.host)
        disks = selected(spec, known.inventory, fresh=fresh)
        _require_all(spec, known, disks)
        with context.sessions.use(known.host) as driver:
            info = _inspect(context, known.host, driver, wanted.storage.name)
            previous = None if row.definition is None else from_json(row.definition)
            machine = (known.inventory or {}).get("machine")
            made = build(row.id, spec, wanted, disks=disks, machine=machine, info=info, previous=previous)
            sector.require(made, disks, info)
            with context.database.transaction() as connection:
                line = room.look(
                    connection, row.id, host=row.host, limit=wanted.points, most=driver.point_limit, since=since
                )
            driver.create(made, dry_run=True)
            free = driver.free_bytes(made)
        return replace(_plan(known, wanted, made, disks, free), line=line)
    except BootpointError as problem:
        problem.job = spec.name
        problem.host = problem.host or row.host
        key = problem.key or f"target.{_KEYS[problem.code]}" if problem.code in _KEYS else problem.key
        if key is not None and key.startswith("target."):
            key = f"target[{number}].{key.removeprefix('target.')}"  # only here is the target's place in the file known
        problem.key = key
        raise


def target_of(spec: Spec, host: str) -> tuple[int, Target]:
    """Return a host's part of a job, with its place in the file.

    Raises:
        NotFoundError: ``no_such_host``.
    """
    for number, target in enumerate(spec.targets):
        if target.host == host:
            return number, target
    raise error(Code.NO_SUCH_HOST, f"job {spec.name} has no target {host}", job=spec.name, key="target", value=host)


def _require_all(spec: Spec, known: Known, disks: Sequence[SourceDisk]) -> None:
    """Refuse to leave a disk out that nobody took off the job: "all" means those that the head has, too."""
    gone = sorted(known.head_slots - {disk.slot for disk in disks})
    if spec.source.disks is None and gone:
        raise error(
            Code.DISK_MISSING,
            f"agent {spec.source.agent} no longer has the disk of slot {', '.join(gone)}, which the newest point has",
            key="source.disks",
            value="all",
            hint=f"bring it back and ask `bootpoint disk list {spec.source.agent}`, or list the disks in source.disks",
        )


def lacks_login(host: Host) -> bool:
    """Tell whether a host wants credentials that nobody saved; a ticket of Kerberos is the workers' machine's own."""
    by_ticket = host.kind == "hyperv" and host.settings.get("auth") == "kerberos"
    return host.credentials is None and host.address != _LOCAL and host.kind not in _NO_LOGIN and not by_ticket


def require_login(host: Host) -> None:
    """Refuse a host whose credentials nobody saved.

    Raises:
        RefusedError: ``credentials_not_saved``.
    """
    if lacks_login(host):
        raise error(Code.CREDENTIALS_NOT_SAVED, f"the credentials of host {host.name} are not saved", host=host.name)


def _inspect(context: Context, host: Host, driver: Driver, storage: str) -> HostInfo:
    """Ask the host, and keep what it says, or why it doesn't; of a storage, too, that no job uses yet."""
    with context.database.transaction() as connection:
        used = hosts.storages(connection, host.id)
    try:
        info = driver.inspect_host(sorted({*used, storage}))
    except BootpointError as problem:
        with context.database.transaction() as connection:
            hosts.checked(connection, host.id, None, problem)
        raise
    problem_found = unsupported(host.name, info)
    with context.database.transaction() as connection:
        hosts.checked(connection, host.id, info_as_json(info, driver), problem_found)
    if problem_found is not None:
        raise problem_found
    return info


def _plan(known: Known, target: Target, made: Replica, disks: Sequence[SourceDisk], free_bytes: int) -> Plan:
    found = work_out(known, disks)
    copied = sum(_copy_bytes(disk, target) for disk in disks if disk.slot in found.new_disks)
    old = len(disks) - len(found.new_disks)
    increment = max(INCREMENT_FLOOR * old, INCREMENT_FACTOR * known.last_bytes) if old else 0
    if free_bytes < copied + increment:
        raise error(
            Code.HOST_FULL,
            f"storage {made.storage!r} on {target.host} has {format_size(free_bytes)} free,"
            f" this run needs {format_size(copied + increment)}",
            value=made.storage,
            host=target.host,
        )
    return Plan(**asdict(found), replica=made, disks=tuple(disks))


def _copy_bytes(disk: SourceDisk, target: Target) -> int:
    """Return the room that the first copy of a disk needs for certain.

    Zeros take none. A thin copy of a disk whose use nobody knows is not refused for its size: should the storage fill
    up, the run ends by `host_full`, and nothing is lost.
    """
    if target.storage.provisioning is Provisioning.THICK:
        return disk.size_bytes
    return min(disk.size_bytes, INCREMENT_FLOOR) if disk.used_bytes is None else disk.used_bytes
