"""Jobs and their replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bootpoint_common.errors import Code, error

from .database import Connection, Row, one, rows, run


@dataclass(frozen=True, slots=True)
class Job:
    """A row of job; `spec` as the JSON of the job file, defaults filled in."""

    id: int
    name: str
    revision: int
    enabled: bool
    agent_id: UUID
    spec: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """A row of replica with its host's name."""

    id: UUID
    job_id: int | None
    job_name: str
    host_id: UUID
    host: str
    pool: str
    state: str
    epoch: int
    chain: int
    head: UUID | None
    definition: dict[str, Any] | None
    standby: str
    drift: str | None


# Named one by one: psycopg has no Python value for the -infinity of a claim that nobody holds.
_REPLICA = """
SELECT y.id, y.job_id, y.job_name, y.host_id, h.name AS host, y.pool, y.state, y.epoch, y.chain, y.head, y.definition,
  y.standby, y.drift FROM replica y JOIN host h ON h.id = y.host_id
"""


def _replica(row: Row) -> ReplicaRow:
    return ReplicaRow(**{name: row[name] for name in ReplicaRow.__slots__})


def by_name(connection: Connection, name: str) -> Job:
    """Read a job by name, or by its number.

    Raises:
        NotFoundError: ``no_such_job``.
    """
    row = one(
        connection, "SELECT * FROM job WHERE name = %s OR id::text = %s ORDER BY name = %s DESC", name, name, name
    )
    if row is None:
        raise error(Code.NO_SUCH_JOB, f"there is no job {name}", key="job", value=name)
    return Job(**{field: row[field] for field in Job.__slots__})


def replica(connection: Connection, replica_id: UUID) -> ReplicaRow | None:
    """Read a replica."""
    row = one(connection, _REPLICA + "WHERE y.id = %s", replica_id)
    return None if row is None else _replica(row)


def replicas(connection: Connection, job_id: int) -> list[ReplicaRow]:
    """Read a job's replicas, detached ones included, in the order they were made."""
    return [_replica(row) for row in rows(connection, _REPLICA + "WHERE y.job_id = %s ORDER BY y.id", job_id)]


def forget(connection: Connection, replica_id: UUID) -> None:
    """Delete a replica's rows, its points among them; what is on the host isn't touched."""
    run(connection, "UPDATE replica SET head = NULL WHERE id = %s", replica_id)
    run(connection, "DELETE FROM replica WHERE id = %s", replica_id)
