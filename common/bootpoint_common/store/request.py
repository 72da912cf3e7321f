"""Live questions: asked by the command line, answered by a worker, an agent or the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common import message
from bootpoint_common.errors import CODES, BootpointError, Code, error
from bootpoint_common.identity import new_id

from . import outbox
from .database import Connection, Database, one, one_row, run

#: Channel of NOTIFY that says that a request was answered; its payload is the id.
CHANNEL = "bootpoint_request"


@dataclass(frozen=True, slots=True)
class Request:
    """A row of request."""

    id: UUID
    kind: str
    addressee: str
    arguments: dict[str, Any]
    secret: bytes | None
    state: str
    answer: dict[str, Any] | None
    error: dict[str, Any] | None
    expires_at: datetime


def get(connection: Connection, request_id: UUID) -> Request | None:
    """Read a request; None when there is none."""
    row = one(connection, "SELECT * FROM request WHERE id = %s", request_id)
    return None if row is None else Request(**{name: row[name] for name in Request.__slots__})


def ask_worker(
    connection: Connection,
    pool: str,
    kind: str,
    arguments: dict[str, Any],
    *,
    requested_by: str,
    seconds: float,
    secret: bytes | None = None,
) -> UUID:
    """Ask a pool's workers; `secret` is encrypted and is deleted with the answer.

    Returns:
        The request's id.
    """
    request_id = _insert(
        connection, kind, f"pool {pool}", arguments, requested_by=requested_by, seconds=seconds, secret=secret
    )
    outbox.task(connection, pool, "request", request_id)
    return request_id


def ask_agent(
    connection: Connection, agent: str, kind: str, arguments: dict[str, Any], *, requested_by: str, seconds: float
) -> UUID:
    """Ask an agent.

    Returns:
        The request's id.
    """
    request_id = _insert(connection, kind, f"agent {agent}", arguments, requested_by=requested_by, seconds=seconds)
    row = one_row(connection, "SELECT expires_at FROM request WHERE id = %s", request_id)
    asked = message.Ask(request=request_id, kind=kind, arguments=arguments, expires_at=row["expires_at"])
    outbox.tell(connection, agent, request_id, asked)
    return request_id


def _insert(
    connection: Connection,
    kind: str,
    addressee: str,
    arguments: dict[str, Any],
    *,
    requested_by: str,
    seconds: float,
    secret: bytes | None = None,
) -> UUID:
    request_id = new_id()
    run(
        connection,
        "INSERT INTO request (id, kind, addressee, arguments, secret, requested_by, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s))",
        request_id,
        kind,
        addressee,
        Jsonb(arguments),
        secret,
        requested_by,
        seconds,
    )
    return request_id


def answer(
    connection: Connection, request_id: UUID, value: dict[str, Any] | None, problem: BootpointError | None
) -> None:
    """Answer a request, once; its secret is deleted."""
    done = run(
        connection,
        "UPDATE request SET state = %s, answer = %s, error = %s, secret = NULL WHERE id = %s AND state = 'asked'",
        "answered" if problem is None else "failed",
        None if value is None else Jsonb(value),
        None if problem is None else Jsonb(problem.as_json()),
        request_id,
    )
    if done:
        run(connection, "SELECT pg_notify(%s, %s)", CHANNEL, str(request_id))


def wait(database: Database, request_id: UUID, *, seconds: float, nobody: BootpointError) -> dict[str, Any]:
    """Wait for the answer.

    Args:
        database: Where it comes to.
        request_id: The request; it must be committed already.
        seconds: How long to wait.
        nobody: Raised when no answer came: it says who did not answer.

    Returns:
        The answer.

    Raises:
        BootpointError: What the addressee answered instead, or ``nobody``.
    """
    with database.listen(CHANNEL) as connection:
        found = get(connection, request_id)
        if found is not None and found.state == "asked":
            for notice in connection.notifies(timeout=seconds):
                if notice.payload == str(request_id):
                    break
            found = get(connection, request_id)
    if found is None or found.state == "asked":
        raise nobody
    if found.error is not None:
        raise from_json(found.error)
    return found.answer or {}


def from_json(value: dict[str, Any]) -> BootpointError:
    """Make the error again that `BootpointError.as_json` wrote."""
    code = Code(value["code"]) if value["code"] in set(CODES) else Code.BUSY
    keep = {name: value.get(name) for name in ("key", "value", "hint", "job", "host")}
    return error(code, value["message"], **keep)
