"""Holds what workers send to hosts for one job to its network limit.

The agent keeps the limit where it sends; here it is what goes from a worker to a host over the network: uncompressed,
and for all disks and targets of the job together. All workers take it out of one bucket in the database, in portions,
so no worker needs to know how many others there are; and the job's row is looked at every second, so that a changed
limit, or another hour of the calendar, holds for slices under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from bootpoint_common.store import limit
from bootpoint_common.store.claim import Claim

from .context import Context

#: Seconds between two looks at the job's limits.
LOOK_SECONDS = 1.0

#: Seconds of the rate that a slice takes out of the bucket at once: a few statements a second for each job.
PORTION_SECONDS = 0.1

#: Longest wait in seconds, so that a stop or a lost claim is noticed.
STEP_SECONDS = 0.2


class Pace:
    """One slice's share of what its job may send; used by one thread.

    Args:
        context: What the worker works with.
        run_uid: The run whose point the slice writes to.
        held: The slice's claim: a wait is no lack of progress, and ends when it is lost.
        clock: Seconds, monotonic.
        now: The instant, for the time of day.
    """

    def __init__(
        self,
        context: Context,
        run_uid: UUID,
        held: Claim,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._context = context
        self._run = run_uid
        self._held = held
        self._clock = clock
        self._now = now
        self._job = 0
        self._limit: limit.NetworkLimit | None = None
        self._look_at = clock()
        self._have = 0

    def wait(self, count: int) -> None:
        """Wait until ``count`` bytes may be sent.

        Raises:
            Fenced: The claim is somebody else's now.
        """
        rate = self._rate()
        if rate and self._have < count:
            wanted = max(count - self._have, int(rate * PORTION_SECONDS))
            with self._context.database.transaction() as connection:
                owed = limit.reserve(connection, self._job, wanted, rate)
            self._have += wanted
            self._pass(owed)
        self._have = max(0, self._have - count)

    def _pass(self, owed: float) -> None:
        """Let the time go by in which those who came before send what they have taken."""
        while owed > 0 and (rate := self._rate()) and not self._context.stopping.is_set():
            self._held.assert_held()
            self._held.progress()
            step = min(owed / rate, STEP_SECONDS)
            began = self._clock()
            self._held.lost.wait(step)
            owed -= (self._clock() - began) * rate

    def _rate(self) -> int:
        """Return the limit of this moment in bytes a second; 0 for none."""
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_SECONDS
            with self._context.database.transaction() as connection:
                found = limit.network(connection, self._run)
            self._job, self._limit = found if found is not None else (0, None)
        return 0 if self._limit is None else self._limit.at(self._now())
