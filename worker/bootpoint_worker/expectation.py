"""What the next run of a job will do on one host, as far as the rows say it: nobody is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bootpoint_common.job import Spec
from bootpoint_common.store import host as hosts
from bootpoint_common.store import point
from bootpoint_common.store.database import Connection, one
from bootpoint_common.store.host import Host
from bootpoint_common.store.job import ReplicaRow

from . import estimate
from .definition import SourceDisk, selected
from .estimate import Ahead, Past


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a run will do on one host, as far as the rows say.

    Attributes:
        kind: ``full`` or ``increment``.
        reason: Why it is a full copy: ``first``; None for an increment.
        changed_bytes: Expected bytes to write; None as long as neither the source nor an increment says how much.
        duration_seconds: Expected duration; None as long as no run on the host has succeeded.
        new_disks: Slots of disks that are copied in full.
        trackers: What finds the changes of each disk: slot, tracker, and its reason for people.
    """

    kind: str
    reason: str | None
    changed_bytes: int | None
    duration_seconds: float | None
    new_disks: tuple[str, ...]
    trackers: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows about a job on one host."""

    host: Host
    inventory: dict[str, Any] | None
    head_slots: frozenset[str]
    head_at: datetime | None
    past: tuple[Past, ...]
    on_host: tuple[Past, ...]

    @property
    def last_bytes(self) -> int:
        """What the last increment copied."""
        return next((one.changed_bytes for one in self.past if one.kind == "increment"), 0)


def known_of(connection: Connection, agent_id: UUID, row: ReplicaRow) -> Known:
    """Read what the database knows about a source and its replica on a host; the replica need not be stored yet."""
    agent = one(connection, "SELECT inventory FROM agent WHERE id = %s", agent_id)
    head = point.head_base(connection, row.id)
    at = one(connection, "SELECT instant FROM boot_point WHERE id = %s", None if head is None else head.point_id)
    past = tuple(estimate.of_replica(connection, row.id))
    return Known(
        host=hosts.get(connection, row.host_id),
        inventory=None if agent is None else agent["inventory"],
        head_slots=frozenset(disk.slot for disk in head.disks) if head is not None else frozenset(),
        head_at=None if at is None else at["instant"],
        past=past,
        on_host=past or tuple(estimate.of_host(connection, row.host_id)),
    )


def expected(
    connection: Connection, spec: Spec, agent_id: UUID, row: ReplicaRow, *, at: datetime | None = None
) -> Expected:
    """Say what the next run will do, without asking anybody.

    Args:
        connection: A transaction.
        spec: The job.
        agent_id: Its source.
        row: Its replica on the host.
        at: When the run begins; None: now.

    Raises:
        BootpointError: Why it can't be said, such as ``agent_offline``: the source never told its disks.
    """
    known = known_of(connection, agent_id, row)
    return work_out(known, selected(spec, known.inventory, fresh=False), at)


def work_out(known: Known, disks: Sequence[SourceDisk], at: datetime | None = None) -> Expected:
    """Say what a run will do with some disks.

    Args:
        known: What the database knows.
        disks: The source's disks.
        at: When the run begins; None: now.
    """
    fresh = [disk for disk in disks if disk.slot not in known.head_slots]
    first = len(fresh) == len(disks)
    ahead = _ahead(known, disks, at or datetime.now(UTC))
    changed = estimate.changed_bytes(known.past, ahead)
    return Expected(
        kind="full" if first else "increment",
        reason="first" if first else None,
        changed_bytes=changed,
        duration_seconds=estimate.duration_seconds(known.on_host, ahead, changed),
        new_disks=tuple(disk.slot for disk in fresh),
        trackers=tuple(
            {"slot": disk.slot, "tracker": disk.tracker, "reason": disk.tracker_reason} for disk in disks
        ),
    )


def _ahead(known: Known, disks: Sequence[SourceDisk], at: datetime) -> Ahead:
    old = [disk for disk in disks if disk.slot in known.head_slots]
    return Ahead(
        copied_bytes=_all_held([disk for disk in disks if disk not in old]),
        held_bytes=_all_held(old),
        scanned_bytes=sum(_held(disk) for disk in old if disk.tracker in (None, estimate.SCANNING)),
        gap_seconds=(at - known.head_at).total_seconds() if old and known.head_at is not None else None,
    )


def _all_held(disks: Sequence[SourceDisk]) -> int | None:
    """Return what disks hold; None where the source never told of one."""
    return sum(map(_held, disks)) if all(disk.size_bytes for disk in disks) else None


def _held(disk: SourceDisk) -> int:
    return disk.size_bytes if disk.used_bytes is None else disk.used_bytes
