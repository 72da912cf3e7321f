"""Messages that follow from state: written in the transaction that changes the state, sent by any relay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.stream.carrier import Undeliverable

from .database import Connection, Row, one, rows, run

#: Rows that a relay publishes in one transaction.
BATCH = 50

#: Seconds until a message whose queue is missing or full is tried again.
UNDELIVERABLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """Work for a pool: what to do, and to which row."""

    pool: str
    kind: str
    subject: str


def task(connection: Connection, pool: str, kind: str, subject: UUID | str, *, delay: float = 0.0) -> None:
    """Enqueue work for a pool's workers; one row for a subject and kind, the earlier time holds.

    Args:
        connection: The transaction that makes the work necessary.
        pool: Whose workers.
        kind: Name of the actor.
        subject: Id of the row that it works on.
        delay: Seconds before it is sent.
    """
    run(
        connection,
        "INSERT INTO outbox (subject, kind, pool, not_before) VALUES (%s, %s, %s, now() + make_interval(secs => %s))"
        " ON CONFLICT (subject, kind) DO UPDATE SET not_before = least(outbox.not_before, excluded.not_before)",
        str(subject),
        kind,
        pool,
        delay,
    )


def tell(connection: Connection, agent: str, subject: UUID | str, body: message.ToAgent) -> None:
    """Enqueue a message for an agent; a later one of the same kind about the same subject replaces it."""
    run(
        connection,
        "INSERT INTO outbox (subject, kind, agent, payload) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (subject, kind) DO UPDATE SET payload = excluded.payload, agent = excluded.agent",
        str(subject),
        f"tell {type(body).__name__}",
        agent,
        message.encode(body),
    )


def is_due(connection: Connection) -> bool:
    """Tell whether something waits to be published now."""
    return one(connection, "SELECT 1 FROM outbox WHERE not_before <= now() LIMIT 1") is not None


def relay(connection: Connection, send_task: Callable[[Task], None], send_message: Callable[[str, bytes], None]) -> int:
    """Publish what is due, each with its confirm, and delete what the broker holds.

    Any number of relays may run: each takes rows that no other holds. A relay that dies after a publish and before its
    commit leads to a second publish, which everybody bears.

    Args:
        connection: A transaction; its rollback keeps all rows.
        send_task: Publishes work.
        send_message: Publishes a message to an agent, (name, encoded message).

    Returns:
        How many rows were published.
    """
    due = rows(
        connection,
        "SELECT * FROM outbox WHERE not_before <= now() ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED",
        BATCH,
    )
    for row in due:
        try:
            _publish(row, send_task, send_message)
        except Undeliverable:
            # Its queue is made anew when the agent says hello; until then it must not hold up what is for others.
            later = "UPDATE outbox SET not_before = now() + make_interval(secs => %s) WHERE id = %s"
            run(connection, later, UNDELIVERABLE_SECONDS, row["id"])
        else:
            run(connection, "DELETE FROM outbox WHERE id = %s", row["id"])
    return len(due)


def _publish(row: Row, send_task: Callable[[Task], None], send_message: Callable[[str, bytes], None]) -> None:
    if row["pool"] is not None:
        send_task(Task(pool=row["pool"], kind=row["kind"], subject=row["subject"]))
    else:
        send_message(row["agent"], bytes(row["payload"]))
