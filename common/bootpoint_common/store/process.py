"""Our own processes: that they live, and whether the broker holds them back."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from . import event
from .database import Connection, one_row, run

#: Seconds of silence after which a process is taken off the list.
GONE_SECONDS = 60

#: Seconds after which a message that is due should be with the broker.
_LATE_SECONDS = 2

#: Number of the advisory lock of whoever notes that an alarm came or went; any number that nobody else uses.
_LOCK = 0x62726F6B

#: Since when the broker has held back those that live, longest first.
_HELD_BACK = f"""
SELECT min(broker_blocked_at) AS since FROM process WHERE seen_at > now() - interval '{GONE_SECONDS} seconds'
"""


def alive(
    connection: Connection, process_id: UUID, *, kind: str, pools: list[str], name: str, metrics: str | None
) -> None:
    """Say that a process lives, and forget those that have gone.

    Args:
        connection: A transaction.
        process_id: The process.
        kind: ``worker``, ``scheduler`` or ``up``.
        pools: The pools that it serves.
        name: Its name, for the history.
        metrics: Where it serves metrics of its own.
    """
    run(
        connection,
        "INSERT INTO process (id, kind, pool, pools, name, metrics) VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (id) DO UPDATE SET seen_at = now()",
        process_id,
        kind,
        pools[0] if pools else None,
        pools,
        name,
        metrics,
    )
    run(connection, "DELETE FROM process WHERE seen_at < now() - make_interval(secs => %s)", GONE_SECONDS)


def held_back(connection: Connection) -> datetime | None:
    """Return since when the broker has taken nothing from one of the processes that live; None where it takes all."""
    since: datetime | None = one_row(connection, _HELD_BACK)["since"]
    return since


def needs_broker(connection: Connection) -> bool:
    """Tell whether an alarm would hold something up: a run is under way, or a message should have gone by now."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM run WHERE state = 'running')"
        " OR EXISTS (SELECT 1 FROM outbox WHERE not_before < now() - make_interval(secs => %s)) AS needed"
    )
    return bool(one_row(connection, query, _LATE_SECONDS)["needed"])


def note_alarm(connection: Connection, process_id: UUID, name: str, *, blocked: bool) -> None:
    """Note whether the broker holds a process back; the history gets it once, whichever process meets it first.

    Args:
        connection: A transaction.
        process_id: The process, which has said that it lives.
        name: Its name, for the history.
        blocked: Whether the broker takes nothing from it.
    """
    run(connection, "SELECT pg_advisory_xact_lock(%s)", _LOCK)
    before = held_back(connection)
    run(
        connection,
        "UPDATE process SET broker_blocked_at = CASE WHEN %s THEN coalesce(broker_blocked_at, now()) END WHERE id = %s",
        blocked,
        process_id,
    )
    after = held_back(connection)
    if before is None and after is not None:
        text = "the broker takes nothing: an alarm of its memory or its disk"
        event.record(connection, "broker_blocked", text, actor="broker", origin=name)
    elif before is not None and after is None:
        event.record(connection, "broker_unblocked", "the broker takes messages again", actor="broker", origin=name)
