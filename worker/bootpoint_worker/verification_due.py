"""Which points are due to be read again, and which verifications nobody works on: looked for every few seconds.

How often a replica's newest point is read again says its job (``check.verify``); how much of a host may be read in a
day, the host (`bootpoint_common.store.verification`).
"""

from __future__ import annotations

import logging

from bootpoint_common.store import adoption, verification

from .context import Context

_log = logging.getLogger(__name__)

#: Seconds between two looks.
LOOK_SECONDS = 10.0


def look(context: Context) -> None:
    """Enqueue what is due; every process calls it, and one at a time does it."""
    with context.database.transaction() as connection:
        enqueued = verification.enqueue(connection)
        enqueued += adoption.enqueue(connection)
    if enqueued:
        _log.info("checks enqueued", extra={"count": enqueued})
