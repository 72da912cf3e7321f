"""Connections to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool

Row = dict[str, Any]
Connection = psycopg.Connection[Row]

#: Seconds after which a dead server or network is noticed, by TCP keepalives.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
}

#: Seconds that a process may sit in a transaction without a word: one that was frozen (SIGSTOP, a paused VM) lets go of
#: the rows that it locked, else everybody who needs them would wait for it. Longer than a publish with its confirm
#: takes.
_IDLE_SECONDS = 20


class Database:
    """A pool of connections; safe to use from several threads.

    Args:
        url: ``postgresql://…``.
        size: Most connections at a time.
        timeout: Seconds to wait for a connection before `psycopg_pool.PoolTimeout`.
        origin: From where the events of these connections come that name no origin themselves: a command, a process.
    """

    def __init__(self, url: str, *, size: int = 8, timeout: float = 30.0, origin: str = "") -> None:
        self.url = url
        self._origin = origin
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            min_size=1,
            max_size=size,
            timeout=timeout,
            open=False,
            check=ConnectionPool.check_connection,
            configure=self._configure,
            kwargs={"row_factory": dict_row, "autocommit": True, "application_name": "bootpoint", **_KEEPALIVE},
        )

    def _configure(self, connection: Connection) -> None:
        set_json_loads(msgspec.json.decode, connection)  # several times as fast as Python's own
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'".encode())
        # Else instants come in the server's zone, in which an hour's sum is wrong where its clock changes.
        connection.execute(b"SET timezone = 'UTC'")
        # With many jobs the planner would compile the views for two seconds to save milliseconds.
        connection.execute(b"SET jit = off")
        connection.execute("SELECT set_config('bootpoint.origin', %s, false)", (self._origin,))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run a block in one transaction: committed at its end, rolled back by an exception."""
        self._pool.open()
        with self._pool.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Run a block that only reads in one transaction, all of whose queries see the same state."""
        with self.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    @contextmanager
    def listen(self, channel: str) -> Iterator[Connection]:
        """Give a connection of its own that listens on a channel."""
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True, **_KEEPALIVE) as connection:  # type: ignore[arg-type]
            connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            yield connection

    def close(self) -> None:
        """Close all connections; may be called twice."""
        self._pool.close()


def one(connection: Connection, query: str, *arguments: object) -> Row | None:
    """Return the first row of a query, or None."""
    return connection.execute(query.encode(), arguments).fetchone()


def present(connection: Connection) -> datetime:
    """Return the instant at which the transaction began, by the clock of the database: processes may be wrong."""
    found: datetime = one_row(connection, "SELECT now() AS now")["now"]
    return found


def one_row(connection: Connection, query: str, *arguments: object) -> Row:
    """Return the first row of a query that always has one, such as a count or an INSERT with RETURNING.

    Raises:
        RuntimeError: It has none.
    """
    found = one(connection, query, *arguments)
    if found is None:
        raise RuntimeError(f"no row came from: {query}")
    return found


def rows(connection: Connection, query: str, *arguments: object) -> list[Row]:
    """Return all rows of a query."""
    return connection.execute(query.encode(), arguments).fetchall()


def run(connection: Connection, query: str, *arguments: object) -> int:
    """Run a statement.

    Returns:
        How many rows it touched.
    """
    return connection.execute(query.encode(), arguments).rowcount
