"""What a host has of replicas, beside what the database has: after either came from a backup they differ.

The host's journals are read; nothing on the host is changed, by the comparison or by the adoption that it may begin
(`bootpoint_worker.adopt`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.store import adoption, event, trash
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection, Database, Row, one, rows, run
from bootpoint_common.store.host import Host
from bootpoint_common.store.job import ReplicaRow

from .replica import as_json, from_json
from .targets.base import Target
from .targets.journal import FoundReplica, Journal, JournalPoint

#: Sorts before every instant.
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Compared:
    """A replica as host and database have it.

    Attributes:
        replica_id: As the host's journal has it, or the database where the host has none.
        job: The job's name.
        vm: The standby's name.
        row: The database's row; None for one that it doesn't know.
        journal: The host's journal; None where it has none.
        points: The database's committed points, oldest first: id, name, sequence.
        unfinished: Points that the database is still at work on.
        merging: Whether a point is being merged now.
        found: The replica as the host has it; None where it has none.
        takes_over: The job's replica without points that an unknown one would take the place of.
        why_not: Why it can't be adopted; None where it can, or where nothing is to be adopted.
    """

    replica_id: UUID
    job: str
    vm: str
    row: ReplicaRow | None
    journal: Journal | None
    points: list[Row] = field(default_factory=list)
    unfinished: set[UUID] = field(default_factory=set)
    merging: bool = False
    found: FoundReplica | None = None
    takes_over: ReplicaRow | None = None
    why_not: str | None = None

    @property
    def on_host(self) -> Sequence[JournalPoint]:
        """The host's committed points, oldest first."""
        return () if self.journal is None else self.journal.points

    @property
    def missing_here(self) -> list[JournalPoint]:
        """Points that the host has and the database lacks, oldest first."""
        known = {row["id"] for row in self.points} | self.unfinished
        return [known_there for known_there in self.on_host if known_there.point_id not in known]

    @property
    def missing_there(self) -> list[Row]:
        """Points that the database has and the host lacks, oldest first."""
        there = {known_there.point_id for known_there in self.on_host}
        return [row for row in self.points if row["id"] not in there]

    @property
    def head_missing(self) -> bool:
        """Whether the committed head isn't on the host."""
        head = None if self.row is None else self.row.head
        return head is not None and head in {row["id"] for row in self.missing_there}

    @property
    def differs(self) -> bool:
        """Whether an adoption would change anything."""
        return bool(self.on_host) and bool(self.missing_here or self.missing_there)

    def as_json(self, begun: UUID | None = None) -> dict[str, Any]:
        """Return it for the command line."""
        there = {known_there.point_id for known_there in self.on_host}
        here = {row["id"] for row in self.points}
        names = [(row["name"], "both" if row["id"] in there else "database") for row in self.points]
        names += [(p.name, "host") for p in self.missing_here]
        return {
            "replica": str(self.replica_id),
            "job": self.job,
            "vm": self.vm,
            "state": self._state(),
            "on_host": self.journal is not None,
            "points": [{"name": name, "where": where} for name, where in sorted(names)],
            "points_both": len(here & there),
            "points_host_only": len(self.missing_here),
            "points_database_only": len(self.missing_there),
            "adopt": self.why_not or self._would(),
            "adoption": None if begun is None else str(begun),
        }

    @property
    def in_trash(self) -> bool:
        """Whether it lies in the host's trash."""
        return self.journal is not None and self.journal.discarded_at is not None

    def _state(self) -> str:
        if self.row is not None:
            return self.row.state
        return "trash" if self.in_trash else "unknown"

    def _would(self) -> str | None:
        """Say what an adoption would do."""
        if not self.differs:
            return None
        parts = []
        if self.in_trash:
            parts.append("comes back from the trash")
        if self.takes_over is not None:
            parts.append(f"becomes the replica of job {self.job}")
        if self.missing_here:
            parts.append(f"{len(self.missing_here)} points are read, and written as committed if they are right")
        if self.missing_there:
            parts.append(f"{', '.join(row['name'] for row in self.missing_there)}: no longer listed, as the host")
            parts[-1] += " has no such point"
        head = self.on_host[-1]
        if self.row is None or self.row.head != head.point_id:
            parts.append(f"the next run stands on {head.name}")
        return "; ".join(parts)


def compare(database: Database, target: Target, host: Host) -> list[Compared]:
    """Compare every replica of a host.

    Args:
        database: The database; the host is asked outside of its transactions.
        target: The host.
        host: Its row.
    """
    with database.transaction() as connection:
        keys = rows(connection, "SELECT id FROM replica WHERE host_id = %s ORDER BY job_name, id", host.id)
        known = [row for key in keys if (row := jobs.replica(connection, key["id"])) is not None]
        deleted = [from_json(each.definition) for each in trash.listed(connection) if each.host_id == host.id]
    # After the rows: a head that is committed while the host is read would be missed there.
    found = {replica.journal.replica_id: replica for replica in target.find_replicas()}
    discarded = target.find_discarded(deleted)
    items = [_known(target, row, found.pop(row.id, None)) for row in known if row.definition is not None]
    with database.transaction() as connection:
        for item in items:
            _add_points(connection, item)
            if item.differs:
                item.why_not = item.why_not or _why_not(item)
        items += [_unknown(connection, host, there) for there in found.values()]
        return [*items, *_deleted(connection, host, discarded, items)]


def _deleted(
    connection: Connection, host: Host, discarded: Sequence[FoundReplica], others: Sequence[Compared]
) -> list[Compared]:
    """Describe the replicas in the trash that would come back: whose jobs were made again, and have no points yet."""
    taken = {item.takes_over.id for item in others if item.takes_over is not None}
    found = []
    # Of several the one that was deleted last.
    for there in sorted(discarded, key=lambda each: each.journal.discarded_at or _NEVER, reverse=True):
        item = _unknown(connection, host, there)
        if item.takes_over is not None and item.takes_over.id not in taken and item.on_host:
            taken.add(item.takes_over.id)
            found.append(item)
    return found


def _known(target: Target, row: ReplicaRow, there: FoundReplica | None) -> Compared:
    """Describe a replica of the database; the host is asked for one that it didn't find by itself."""
    replica = from_json(row.definition)
    item = Compared(row.id, row.job_name, replica.vm_name, row, None)
    try:
        item.journal = there.journal if there is not None else target.inspect(replica)
    except BootpointError as problem:
        if problem.code is not Code.VM_NAME_TAKEN:
            raise
        item.why_not = problem.message
    return item


def _add_points(connection: Connection, item: Compared) -> None:
    found = rows(
        connection,
        "SELECT id, name, sequence, state FROM boot_point WHERE replica_id = %s AND state <> 'aborted'"
        " AND consolidated_at IS NULL ORDER BY sequence",
        item.replica_id,
    )
    item.points = [row for row in found if row["state"] == "committed"]
    item.unfinished = {row["id"] for row in found if row["state"] != "committed"}
    row = one(connection, "SELECT consolidating FROM replica WHERE id = %s", item.replica_id)
    item.merging = row is not None and row["consolidating"] is not None


def _why_not(item: Compared) -> str | None:
    if item.merging:
        return "a point is being merged: ask again when that is done"
    if item.row is not None and item.row.job_id is None:
        return f"job {item.job} was deleted: nobody would write these points on"
    return None


def _unknown(connection: Connection, host: Host, there: FoundReplica) -> Compared:
    """Describe a replica that the database doesn't know, and whose place it could take."""
    journal = there.journal
    item = Compared(journal.replica_id, journal.job, journal.vm_name, None, journal, found=there)
    key = one(
        connection,
        "SELECT y.id FROM replica y JOIN job j ON j.id = y.job_id WHERE j.name = %s AND y.host_id = %s",
        journal.job,
        host.id,
    )
    row = None if key is None else jobs.replica(connection, key["id"])
    if row is None:
        item.why_not = f"no job {journal.job} has this host as a target: apply its job file first"
        return item
    used = one(connection, "SELECT 1 FROM boot_point WHERE replica_id = %s AND state <> 'aborted'", row.id)
    if used is not None or row.head is not None:
        item.why_not = f"job {journal.job} has points of another replica on this host"
    else:
        item.takes_over = row
    return item


def mark(connection: Connection, host: Host, items: Sequence[Compared], *, actor: str) -> None:
    """Mark replicas whose committed head is missing on the host, loudly, and take that back where it is there again."""
    for item in items:
        row = item.row
        if row is None or row.state == "detached" or item.merging or row.head is None:
            continue
        state = "broken" if item.head_missing else "ok"
        if not run(connection, "UPDATE replica SET state = %s WHERE id = %s AND state <> %s", state, row.id, state):
            continue
        item.row = jobs.replica(connection, row.id)
        name = next((known["name"] for known in item.points if known["id"] == row.head), "its newest point")
        text = (
            f"the replica on {host.name} is broken: {name}, which was committed, is not on the host"
            if state == "broken"
            else f"the replica on {host.name} is whole again: {name} is there"
        )
        kind, code = ("replica_broken", str(Code.LAYER_LOST)) if state == "broken" else ("replica_whole", None)
        event.record(connection, kind, text, actor=actor, job=item.job, host=host.name, point=name, code=code)


def begin(connection: Connection, host: Host, item: Compared, *, actor: str) -> UUID | None:
    """Begin to adopt a replica; None where there is nothing to adopt, or it can't be."""
    if not item.differs or item.why_not is not None:
        return None
    if item.takes_over is not None and item.found is not None:
        adoption.take_place_of(connection, item.takes_over.id, item.replica_id, as_json(item.found.replica))
    missing = item.missing_here
    places = adoption.places(connection, item.replica_id, {p.point_id: p.sequence for p in missing})
    # The head first: with it the next run is an increment again, however long the others take.
    newest = [place for place in places if place[0] == item.on_host[-1].point_id]
    plan = [*newest, *(place for place in places if place not in newest)]
    return adoption.ask(
        connection, host_id=host.id, pool=host.pool, replica_id=item.replica_id, plan=plan, requested_by=actor
    )
