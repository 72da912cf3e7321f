"""Disks that no job protects: told once each, when they appear."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from bootpoint_common.units import format_size

from . import event
from .database import Connection, one, rows


def review(connection: Connection, agent_id: UUID, *, actor: str) -> None:
    """Write an event for each disk of an agent that no job protects any more, or never did, and that wasn't told.

    To be called after every change of the agent's list of disks or of its jobs, in the same transaction. A machine
    without any job is passed over: nobody wants to hear of each of its disks while it is being set up. That one which
    was told is protected now, or gone, is an event as well: so the history says for how long it was.

    Args:
        connection: A transaction.
        agent_id: The agent.
        actor: Whose change it is.
    """
    # Before anything is written: the agent's row is what an agent's messages lock first.
    found = one(
        connection,
        "SELECT name, EXISTS (SELECT 1 FROM job WHERE agent_id = agent.id) AS used FROM agent WHERE id = %s"
        " FOR NO KEY UPDATE",
        agent_id,
    )
    if found is None:
        return
    items = [row["item"] for row in rows(connection, "SELECT unprotected_disks(%s) AS item", agent_id)]
    disks: dict[str, dict[str, Any]] = {item["id"]: item for item in items}
    settled = rows(
        connection,
        "DELETE FROM unprotected_disk WHERE agent_id = %s AND NOT disk_id = ANY(%s) RETURNING disk_id",
        agent_id,
        list(disks),
    )
    for disk_id in sorted(row["disk_id"] for row in settled):
        event.record(
            connection,
            "disk_settled",
            f"disk {disk_id} of {found['name']} is protected, or no longer there",
            actor=actor,
            agent=found["name"],
            details={"id": disk_id},
        )
    if found["used"]:
        _tell(connection, agent_id, found["name"], disks, actor=actor)


def _tell(
    connection: Connection, agent_id: UUID, agent: str, disks: dict[str, dict[str, Any]], *, actor: str
) -> None:
    fresh = rows(
        connection,
        "INSERT INTO unprotected_disk (agent_id, disk_id) SELECT %s, unnest(%s::text[])"
        " ON CONFLICT DO NOTHING RETURNING disk_id",
        agent_id,
        sorted(disks),
    )
    for row in fresh:
        disk = disks[row["disk_id"]]
        event.record(
            connection,
            "disk_unprotected",
            f"no job protects disk {disk['id']} of {agent} ({disk['path']}, {format_size(disk['size_bytes'])})",
            actor=actor,
            agent=agent,
            details={name: disk[name] for name in ("id", "path", "size_bytes")},
        )
