"""What the history needs from time to time: hours counted once they are over, milestones, and logs of long ago cleared.

Events are for ever. What scripts of a run wrote is not: it may hold anything, and nobody asks for it after months.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bootpoint_common.store import history, outcome
from bootpoint_common.store.database import Database, present

#: Seconds between two looks.
LOOK_SECONDS = 60.0

#: Seconds for which the output of a run's scripts is kept after the run's end.
LOG_SECONDS = 90 * 86400.0

#: Runs that are cleared in one transaction, so that none is long.
_BATCH = 500


def tend(database: Database, now: datetime | None = None) -> None:
    """Look once; any number of processes may do so.

    Args:
        database: The truth.
        now: The present instant; None: as the database's clock has it.
    """
    with database.transaction() as connection:
        at = now or present(connection)
        history.count_hours(connection, at)
        history.set_milestones(connection, at)
    while True:
        with database.transaction() as connection:
            cleared = outcome.clear_logs(connection, at - timedelta(seconds=LOG_SECONDS), at=at, most=_BATCH)
        if cleared < _BATCH:
            return
