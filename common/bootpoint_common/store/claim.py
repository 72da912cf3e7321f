"""Claims: who works on a replica, on a disk of an open point, on a test VM, or on a deleted replica.

State says what is to be done; a claim says who does it. A claim is a number that only grows; every later write
carries it, and a write that finds a greater number ends the work. So a writer that was frozen for a minute can wake up
and do no harm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

import psycopg

from bootpoint_common.errors import Fenced

from .database import Connection, Database, one, run

#: Seconds that a claim holds without being renewed; a dead worker's work goes on elsewhere after it.
CLAIM_SECONDS = 6.0

#: Seconds between renewals: a third of the claim, so that two may be lost.
RENEW_SECONDS = 2.0

#: Seconds without progress after which a claim is no longer renewed: a worker that hangs lets go.
PROGRESS_SECONDS = 300.0

Table = Literal["replica", "boot_point_disk", "test_vm", "trash"]


def take(connection: Connection, table: Table, key: UUID, *, seconds: float = CLAIM_SECONDS) -> int | None:
    """Take a claim if nobody holds it.

    Returns:
        The claim's number, or None where somebody else holds it or the row is gone.
    """
    row = one(
        connection,
        f"UPDATE {table} SET writer = writer + 1, writer_until = now() + make_interval(secs => %s)"
        " WHERE id = %s AND writer_until < now() RETURNING writer",
        seconds,
        key,
    )
    return None if row is None else int(row["writer"])


def renew(connection: Connection, table: Table, key: UUID, writer: int, *, seconds: float = CLAIM_SECONDS) -> bool:
    """Hold on to a claim; False when it is somebody else's now."""
    query = f"UPDATE {table} SET writer_until = now() + make_interval(secs => %s) WHERE id = %s AND writer = %s"
    return run(connection, query, seconds, key, writer) == 1


def release(connection: Connection, table: Table, key: UUID, writer: int) -> None:
    """Let go of a claim; nothing when it is somebody else's now."""
    run(connection, f"UPDATE {table} SET writer_until = '-infinity' WHERE id = %s AND writer = %s", key, writer)


def check(connection: Connection, table: Table, key: UUID, writer: int) -> None:
    """Lock the claimed row for the rest of the transaction.

    Raises:
        Fenced: The claim is somebody else's now.
    """
    if one(connection, f"SELECT 1 FROM {table} WHERE id = %s AND writer = %s FOR UPDATE", key, writer) is None:
        raise Fenced


class Claim:
    """A claim in hand: a context that renews it by a thread of its own, and lets go at the end.

    Attributes:
        number: The claim's number.
        patience: Seconds without progress after which it is no longer renewed.
        lost: Set once the claim is somebody else's, or can't be renewed in time.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        key: UUID,
        number: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        renewing: bool = True,
        patience: float | None = None,
    ) -> None:
        self.number = number
        self.patience = PROGRESS_SECONDS if patience is None else patience
        self.lost = threading.Event()
        self._database = database
        self._table: Table = table
        self._key = key
        self._clock = clock
        self._progress = clock()
        self._held_until = clock() + CLAIM_SECONDS
        self._stop = threading.Event()
        self._thread = (
            threading.Thread(target=self._renew, name=f"claim {table} {key}", daemon=True) if renewing else None
        )

    def progress(self) -> None:
        """Say that the work goes on."""
        self._progress = self._clock()

    def assert_held(self) -> None:
        """Raise `Fenced` once the claim is lost."""
        if self.lost.is_set():
            raise Fenced

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.lost.is_set() or (kind is not None and not issubclass(kind, Exception)):
            # Lost, or this process is dying: then the claim runs out by itself, as after a kill.
            return
        try:
            with self._database.transaction() as connection:
                release(connection, self._table, self._key, self.number)
        except psycopg.Error:
            # The claim runs out by itself; the first error, if there is one, matters more.
            self.lost.set()

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            if self._clock() - self._progress > self.patience:
                self.lost.set()
                return
            try:
                with self._database.transaction() as connection:
                    held = renew(connection, self._table, self._key, self.number)
            except (psycopg.Error, OSError):
                # The database is away: the claim still holds for a while, and nobody can take it meanwhile either.
                held = self._clock() < self._held_until
            else:
                self._held_until = self._clock() + CLAIM_SECONDS
            if not held:
                self.lost.set()
                return


def claim(
    database: Database, table: Table, key: UUID, *, renewing: bool = True, patience: float | None = None
) -> Claim | None:
    """Take a claim in a transaction of its own; None where somebody else holds it.

    Args:
        database: The database.
        table: What is claimed.
        key: Its id.
        renewing: Whether a thread renews it.
        patience: Seconds that the work may take without progress; `PROGRESS_SECONDS` where nothing is said.
    """
    with database.transaction() as connection:
        number = take(connection, table, key)
    return None if number is None else Claim(database, table, key, number, renewing=renewing, patience=patience)
