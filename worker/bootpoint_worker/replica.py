"""Replicas as rows: the definition of the standby VM as it was made, read back as the drivers want it."""

from __future__ import annotations

from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from bootpoint_common.errors import Code, error
from bootpoint_common.store.database import Connection, one, run

from .targets.replica import Replica


def replica_of(connection: Connection, replica_id: UUID) -> Replica:
    """Read a replica's definition.

    Raises:
        NotFoundError: ``no_such_vm``: there is no such replica, or it was never made.
    """
    row = one(connection, "SELECT definition FROM replica WHERE id = %s", replica_id)
    if row is None or row["definition"] is None:
        raise error(
            Code.NO_SUCH_VM, f"replica {replica_id} was never made on its host", key="replica", value=replica_id
        )
    return from_json(row["definition"])


def from_json(value: object) -> Replica:
    """Read what `as_json` wrote."""
    return msgspec.convert(value, Replica)


def as_json(replica: Replica) -> dict[str, object]:
    """Write a replica for the jsonb column: MACs included, so that they stay."""
    written: dict[str, object] = msgspec.to_builtins(replica)
    return written


def keep_definition(connection: Connection, replica: Replica) -> None:
    """Store a replica's definition."""
    run(connection, "UPDATE replica SET definition = %s WHERE id = %s", Jsonb(as_json(replica)), replica.replica_id)
