"""Sending notices: who has one in hand, when it is tried again, and when it is given up.

A process holds what it sends for a while (`claim`); no transaction lasts while it talks to a server, and any number of
processes may send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from .database import Connection, Row, one, rows, run
from .notice import Channel

#: Channel of NOTIFY that says that a notice was sent, or wasn't.
CHANNEL = "bootpoint_notice"

#: Seconds that a process holds a notice: longer than a mail server needs that takes almost 10 s for each answer.
HOLD_SECONDS = 180.0

#: Seconds until a notice that could not be sent is tried again: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0

#: Seconds after which a notice is given up: over a long weekend a mail server is mended.
GIVE_UP_SECONDS = 3 * 86400.0

#: Seconds that a notice is kept once it was sent or given up.
KEEP_SECONDS = 90 * 86400.0


@dataclass(frozen=True, slots=True)
class Notice:
    """A row that somebody sends now; ``age`` in seconds."""

    id: UUID
    channel: Channel
    address: str
    kind: str
    job: str | None
    run: int | None
    message_id: str
    facts: dict[str, Any]
    secret_file: str | None
    created_at: datetime
    attempts: int
    age: float


def claim(connection: Connection, channel: Channel, *, without: Sequence[str] = ()) -> Notice | None:
    """Take a notice that is due and in nobody's hands, the one that waits longest first.

    A letter takes along what else is to be told the same reader about the same thing, before it is sent for the first
    time: later it stays as it is.

    Args:
        connection: A transaction; it must be committed before the notice is sent.
        channel: Which ones.
        without: Addresses to which nothing is to be sent at the moment.
    """
    row = one(
        connection,
        "UPDATE notification SET attempts = attempts + 1, held_until = now() + make_interval(secs => %s)"
        " WHERE id = (SELECT id FROM notification WHERE channel = %s AND state = 'waiting' AND not_before <= now()"
        " AND told_in IS NULL AND (held_until IS NULL OR held_until < now()) AND address <> ALL(%s::text[])"
        " ORDER BY not_before, id LIMIT 1 FOR UPDATE SKIP LOCKED)"
        " RETURNING *, extract(epoch FROM now() - created_at)::double precision AS age",
        *(HOLD_SECONDS, str(channel), list(without)),
    )
    if row is None:
        return None
    if row["about"] is not None and row["attempts"] == 1:
        row["facts"] = _gather(connection, row)
    return Notice(**{name: row[name] for name in Notice.__slots__ if name != "channel"}, channel=channel)


def _gather(connection: Connection, row: Row) -> dict[str, Any]:
    """Let a letter tell of others too; returns its facts."""
    others = rows(
        connection,
        "UPDATE notification SET told_in = %s WHERE id IN (SELECT id FROM notification"
        " WHERE address = %s AND about = %s AND state = 'waiting' AND attempts = 0 AND told_in IS NULL"
        " AND NOT facts ? 'others' FOR UPDATE SKIP LOCKED)"
        " RETURNING id, job, run, facts->>'at' AS at, facts#>>'{event,text}' AS text",
        *(row["id"], row["address"], row["about"]),
    )
    facts: dict[str, Any] = row["facts"]
    if others:
        told = [{name: other[name] for name in ("job", "run", "at", "text")} for other in sorted(others, key=_by_id)]
        facts |= {"about": row["about"], "others": [*facts.get("others", []), *told]}
        run(connection, "UPDATE notification SET facts = %s WHERE id = %s", Jsonb(facts), row["id"])
    return facts


def _by_id(row: Row) -> UUID:
    found: UUID = row["id"]
    return found


def sent(connection: Connection, found: Notice) -> None:
    """Write that a notice was sent."""
    _end(connection, found, "sent", None)


def give_up(connection: Connection, found: Notice, problem: str) -> list[Row]:
    """Write that a notice won't be sent; returns what isn't told; nothing where somebody else has it."""
    return _end(connection, found, "failed", problem)


def later(connection: Connection, found: Notice, problem: str) -> None:
    """Let a notice be tried again after a pause that grows with each attempt."""
    pause = min(FIRST_PAUSE * 2 ** min(found.attempts - 1, 16), LONGEST_PAUSE)
    _release(connection, found, problem, pause=pause, attempts=found.attempts)


def put_back(connection: Connection, found: Notice, problem: str) -> None:
    """Let another process take a notice at once: this one lacks something; the attempt does not count."""
    _release(connection, found, problem, pause=0.0, attempts=found.attempts - 1)


#: Only who took it last says how it went.
_MINE = " WHERE id = %s AND attempts = %s AND state = 'waiting'"


def _end(connection: Connection, found: Notice, state: str, problem: str | None) -> list[Row]:
    query = "UPDATE notification SET state = %s, problem = %s, ended_at = now(), held_until = NULL"
    told = " RETURNING kind, job, run"
    own = rows(connection, query + _MINE + told, state, problem, found.id, found.attempts)
    return own and own + rows(connection, f"{query} WHERE told_in = %s{told}", state, problem, found.id)


def _release(connection: Connection, found: Notice, problem: str, *, pause: float, attempts: int) -> None:
    query = (
        "UPDATE notification SET not_before = now() + make_interval(secs => %s), held_until = NULL, problem = %s,"
        " attempts = %s" + _MINE
    )
    run(connection, query, pause, problem, attempts, found.id, found.attempts)


# --- looking after them


def expire(connection: Connection, limit: int = 100) -> list[Row]:
    """Give up notices that no process sends, and return them.

    Processes give up what they send themselves; these lie there because none has a mail server, or the secret.
    """
    return rows(
        connection,
        "UPDATE notification SET state = 'failed', ended_at = now(),"
        " problem = coalesce(problem, 'no process sends notices of this kind')"
        " WHERE id IN (SELECT id FROM notification WHERE state = 'waiting'"
        " AND (held_until IS NULL OR held_until < now()) AND created_at < now() - make_interval(secs => %s)"
        " LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING *",
        GIVE_UP_SECONDS + LONGEST_PAUSE,
        limit,
    )


def forget(connection: Connection) -> None:
    """Delete what was sent or given up long ago."""
    run(
        connection,
        "DELETE FROM notification WHERE state <> 'waiting' AND ended_at < now() - make_interval(secs => %s)",
        KEEP_SECONDS,
    )


def state_of(connection: Connection, ids: Sequence[UUID]) -> list[Row]:
    """Return how far notices are: channel, address, state, attempts, problem, ended_at."""
    query = "SELECT id, channel, address, state, attempts, problem, ended_at FROM notification WHERE id = ANY(%s)"
    return rows(connection, query + " ORDER BY id", list(ids))


def withdraw(connection: Connection, ids: Sequence[UUID]) -> None:
    """Give up notices that nobody took in time."""
    run(
        connection,
        "UPDATE notification SET state = 'failed', ended_at = now() WHERE id = ANY(%s) AND state = 'waiting'",
        list(ids),
    )


def pending(connection: Connection, older_than: float) -> list[Row]:
    """Return what waits longer than some seconds, by channel: how many, since when, and the last problem."""
    return rows(
        connection,
        "SELECT channel, count(*) AS waiting, min(created_at) AS since,"
        " (array_agg(problem ORDER BY created_at DESC) FILTER (WHERE problem IS NOT NULL))[1] AS problem"
        " FROM notification WHERE state = 'waiting' AND created_at < now() - make_interval(secs => %s)"
        " AND (attempts > 0 OR not_before <= now()) GROUP BY channel ORDER BY channel",
        older_than,
    )
