"""The post: takes notices that are due, one after the other, and writes down what became of each.

Any process may run it; none leads. A notice that arrived though nobody knows it is sent again, with the same id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from bootpoint_common.store import delivery, event
from bootpoint_common.store.database import Connection, Database
from bootpoint_common.store.delivery import Notice
from bootpoint_common.store.notice import Channel, Kind

from .undelivered import Undelivered

_log = logging.getLogger(__name__)

#: Seconds in which nothing is sent to a server that is away, or for which this process lacks something.
AWAY_SECONDS = 30.0


class Carrier(Protocol):
    """What sends notices of one channel."""

    def send(self, notice: Notice) -> None:
        """Send one, or raise `Undelivered`."""

    def close(self) -> None:
        """End sessions that are kept between notices."""


class Post:
    """Sends what is due of one channel.

    Args:
        database: Where notices are.
        channel: Which ones.
        carrier: How they are sent.
        worker: Name of this process, for the history.
        stopping: Tells that the process ends.
        clock: Seconds, for pauses.
    """

    def __init__(
        self,
        database: Database,
        channel: Channel,
        carrier: Carrier,
        *,
        worker: str,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._channel = channel
        self._carrier = carrier
        self._worker = worker
        self._stopping = stopping
        self._clock = clock
        self._paused: dict[str, float] = {}

    def round(self) -> int:
        """Send everything that is due; returns how many notices were tried."""
        tried = 0
        try:
            while not self._stopping() and self._one():
                tried += 1
        finally:
            self._carrier.close()
        return tried

    def _one(self) -> bool:
        self._paused = {place: until for place, until in self._paused.items() if until > self._clock()}
        if self._channel is Channel.MAIL and self._paused:
            return False  # there is one mail server
        with self._database.transaction() as connection:
            found = delivery.claim(connection, self._channel, without=list(self._paused))
        if found is None:
            return False
        try:
            self._carrier.send(found)
        except Undelivered as problem:
            self._failed(found, problem)
        else:
            with self._database.transaction() as connection:
                delivery.sent(connection, found)
        return True

    def _failed(self, found: Notice, problem: Undelivered) -> None:
        _log.warning(
            "notice not sent", extra={"fields": {"notice": found.id, "kind": found.kind, "cause": problem.why}}
        )
        if problem.away or problem.elsewhere:
            self._paused[found.address] = self._clock() + AWAY_SECONDS
        with self._database.transaction() as connection:
            if problem.elsewhere and found.age < delivery.GIVE_UP_SECONDS:
                delivery.put_back(connection, found, problem.why)
            elif problem.final or found.kind == Kind.TEST or found.age >= delivery.GIVE_UP_SECONDS:
                for row in delivery.give_up(connection, found, problem.why):
                    note_failure(connection, row["kind"], row["job"], row["run"], problem.why, actor=self._worker)
            else:
                delivery.later(connection, found, problem.why)


def note_failure(
    connection: Connection, kind: str, job: str | None, number: int | None, why: str | None, *, actor: str
) -> None:
    """Write in the history that somebody was not told."""
    whose = "" if job is None else f" of job {job}"
    text = f"the notice {kind}{whose} was given up: {why}"
    event.record(connection, "notice_failed", text, actor=actor, job=job, run_number=number, details={"notice": kind})
