"""Boot points and their disks: the state machine, watermarks, digests.

::

    offered ──► open ──► sealed ──► committing ──► committed
       └──────────┴─────────┴──► aborting ──► aborted

`committing` is the point of no return: only forward, by redo. Every change locks the boot_point row first, so that two
disks which seal at once leave exactly one of them to commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from bootpoint_common.message import Base, BaseDisk
from bootpoint_common.units import GRAIN, format_duration

from .database import Connection, Row, one, one_row, rows

#: Seconds that a source's clock may be off before a boot point is named after the database's.
CLOCK_TOLERANCE = 120.0

#: Sizes of credit windows in bytes: how far an agent may be ahead of the watermark.
WINDOW = 64 << 20

#: Window of a run that must end before its machine stops.
LAST_BREATH_WINDOW = 1 << 30


class State(StrEnum):
    """States of a boot point."""

    OFFERED = "offered"
    """The agent holds a snapshot; no layer yet."""
    OPEN = "open"
    """The layer is there and takes blocks."""
    SEALED = "sealed"
    """Every disk's stream was applied to its seal."""
    COMMITTING = "committing"
    """On its way to being visible; only forward."""
    COMMITTED = "committed"
    """Visible, immutable."""
    ABORTING = "aborting"
    """The layer is to be thrown away."""
    ABORTED = "aborted"
    """Gone; the head never moved."""


#: States from which a point can still be given up.
UNDOABLE = (State.OFFERED, State.OPEN, State.SEALED)


@dataclass(frozen=True, slots=True)
class Point:
    """A row of boot_point with what every actor needs of its replica, run and agent."""

    id: UUID
    replica_id: UUID
    run_uid: UUID
    run_number: int
    job: str
    agent: str
    host_id: UUID
    host: str
    pool: str
    sequence: int
    name: str
    state: State
    kind: str
    base: UUID | None
    epoch: int
    chain: int
    consistency: str
    instant: datetime
    incarnation: UUID
    offered_base: Base | None
    last_breath: bool


@dataclass(frozen=True, slots=True)
class PointDisk:
    """A row of boot_point_disk."""

    id: UUID
    point_id: UUID
    slot: str
    size_bytes: int
    layer: str | None
    window_bytes: int
    writer: int
    watermark_bytes: int
    sequence: int
    chain_digest: bytes | None
    applied_bytes: int
    sealed_at: datetime | None
    read_digest: bytes | None
    applied_digest: bytes | None
    idle: int
    failures: int


_POINT = """
SELECT p.*, r.id AS run_number, r.job_name AS job, r.last_breath, a.name AS agent, h.name AS host, h.id AS host_id,
  y.pool
FROM boot_point p JOIN run r ON r.uid = p.run_uid JOIN agent a ON a.id = r.agent_id
JOIN replica y ON y.id = p.replica_id JOIN host h ON h.id = y.host_id
WHERE p.id = %s
"""


# Named one by one: psycopg has no Python value for the -infinity of a claim that nobody holds.
_DISK = f"SELECT {', '.join(PointDisk.__slots__)} FROM boot_point_disk "


def _point(row: Row) -> Point:
    offered = row["offered_base"]
    values = {name: row[name] for name in Point.__slots__ if name not in ("state", "offered_base")}
    base = None if offered is None else base_from_json(offered)
    return Point(state=State(row["state"]), offered_base=base, **values)


def base_from_json(value: Mapping[str, Any]) -> Base:
    """Read a base as `base_as_json` wrote it; its disks are sorted by slot, so that two bases can be compared."""
    disks = [
        BaseDisk(slot=slot, size_bytes=disk["size_bytes"], grain=disk["grain"], root=bytes.fromhex(disk["root"]))
        for slot, disk in sorted(value["disks"].items())
    ]
    return Base(point_id=UUID(value["point_id"]), disks=disks)


def base_as_json(base: Base) -> dict[str, Any]:
    """Write a base for a jsonb column."""
    disks = {d.slot: {"size_bytes": d.size_bytes, "grain": d.grain, "root": d.root.hex()} for d in base.disks}
    return {"point_id": str(base.point_id), "disks": disks}


def get(connection: Connection, point_id: UUID, *, lock: bool = False) -> Point | None:
    """Read a point; with ``lock`` it stays locked until the transaction ends."""
    if lock:
        one(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point_id)
    row = one(connection, _POINT, point_id)
    return None if row is None else _point(row)


def disks(connection: Connection, point_id: UUID) -> list[PointDisk]:
    """Read a point's disks in the job's order."""
    found = rows(connection, _DISK + "WHERE point_id = %s ORDER BY position", point_id)
    return [_disk(row) for row in found]


def disk(connection: Connection, point_disk_id: UUID) -> PointDisk | None:
    """Read one disk of a point."""
    row = one(connection, _DISK + "WHERE id = %s", point_disk_id)
    return None if row is None else _disk(row)


def _disk(row: Row) -> PointDisk:
    return PointDisk(**{name: row[name] for name in PointDisk.__slots__})


def of_run(connection: Connection, run_uid: UUID, replica_id: UUID) -> Point | None:
    """Read the point that a run made for a replica."""
    row = one(connection, "SELECT id FROM boot_point WHERE run_uid = %s AND replica_id = %s", run_uid, replica_id)
    return None if row is None else get(connection, row["id"])


def point_name(instant: datetime) -> str:
    """Name a point after its snapshot's instant (aware, UTC): ``V<yyyymmdd_hhmmss>``."""
    return f"V{instant:%Y%m%d_%H%M%S}"


def free_instant(connection: Connection, run_uid: UUID, instant: datetime) -> tuple[datetime, str | None]:
    """Return the instant that names the points of a run, and what is wrong with the source's clock.

    A snapshot is taken after its run has begun and before it is offered, by the database's clock. An instant that is
    off by more than `CLOCK_TOLERANCE` becomes the nearer of the two: the ages that people are woken for follow from it.
    One that isn't later than the newest point among the job's replicas becomes that one's + 1 s.

    Args:
        connection: A transaction.
        run_uid: The run.
        instant: The snapshot's instant by the source's clock, aware.
    """
    row = one_row(
        connection,
        "SELECT now() AS latest, (SELECT started_at FROM run WHERE uid = %s) AS earliest,"
        " (SELECT max(p.instant) FROM run_target t JOIN boot_point p ON p.replica_id = t.replica_id"
        "  WHERE t.run_uid = %s AND p.state <> 'aborted' AND p.run_uid <> t.run_uid) AS newest",
        run_uid,
        run_uid,
    )
    newest, wrong = row["newest"], None
    nearest = min(max(instant, row["earliest"] or instant), row["latest"])
    off = (instant - nearest).total_seconds()
    if abs(off) > CLOCK_TOLERANCE:
        wrong = f"is {format_duration(abs(off))} {'ahead' if off > 0 else 'behind'}"
        instant = nearest
    instant = instant.replace(microsecond=0)
    if newest is None or instant > newest:
        return instant, wrong
    return newest.replace(microsecond=0) + timedelta(seconds=1), wrong or "stands before the newest point"


def head_base(connection: Connection, replica_id: UUID) -> Base | None:
    """Read what an increment of this replica has to stand on: its head, the disks sorted by slot."""
    found = rows(
        connection,
        "SELECT p.id, d.slot, d.size_bytes, d.read_digest FROM replica y JOIN boot_point p ON p.id = y.head"
        ' JOIN boot_point_disk d ON d.point_id = p.id WHERE y.id = %s ORDER BY d.slot COLLATE "C"',
        replica_id,
    )
    if not found:
        return None
    parts = [BaseDisk(slot=r["slot"], size_bytes=r["size_bytes"], grain=GRAIN, root=r["read_digest"]) for r in found]
    return Base(point_id=found[0]["id"], disks=parts)
