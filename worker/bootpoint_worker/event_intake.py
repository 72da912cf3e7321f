"""What others say of sources: messages on the exchange ``bp.events``, from UPS daemons, hypervisors, scripts.

Their senders hold a login that can do nothing but say this. So everything is checked here, strictly, and what is
refused is counted and written to the history, in bounds.
"""

from __future__ import annotations

import logging
import re

import msgspec

from bootpoint_common.cipher import Reject
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store.source_event import Kind
from bootpoint_common.stream.carrier import Delivery

from . import occasion
from .context import Context

_log = logging.getLogger(__name__)

#: Who the history names for what came over the exchange: the broker tells nobody whose login it was.
ACTOR = "bp.events"

#: Messages in hand without an ack.
PREFETCH = 16

#: Longest message in bytes, and longest text of its sender.
LONGEST, LONGEST_ORIGIN = 4096, 200

_ROUTE = re.compile(r"source\.([A-Za-z0-9][A-Za-z0-9_-]{0,62})\.(shutdown|restart)", re.ASCII)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """The whole of a message's body.

    Attributes:
        origin: Who says so and why, for the history: one line.
    """

    origin: str


def take(context: Context, delivery: Delivery) -> None:
    """Take one message; it may be acked when this returns.

    Raises:
        psycopg.Error: The database is away; the message is to be delivered again.
    """
    source, origin = None, ""
    try:
        source, kind, origin = _read(delivery)
        said = occasion.Said(source=source, kind=kind, actor=ACTOR, origin=origin)
        with context.database.transaction() as connection:
            occasion.take(connection, said)
    except BootpointError as problem:
        reason = str(problem.value) if problem.code is Code.BUNDLE_REJECTED else str(problem.code)
        context.tally.refused(reason)
        _log.warning("event refused", extra={"route": delivery.route[:LONGEST_ORIGIN], "cause": problem.message})
        # A name that nobody knows is the sender's to choose: it must not make a kind of refusal of its own.
        known = None if problem.code is Code.NO_SUCH_AGENT else source
        with context.database.transaction() as connection:
            occasion.refuse(connection, context.refusals, problem, source=known, actor=ACTOR, origin=origin)


def _read(delivery: Delivery) -> tuple[str, Kind, str]:
    """Return source, kind and origin of a message.

    Raises:
        FatalError: ``bundle_rejected``: it isn't one.
    """
    route = _ROUTE.fullmatch(delivery.route)
    if route is None:
        raise _malformed(f"its routing key {delivery.route[:LONGEST_ORIGIN]!r} isn't source.NAME.shutdown or .restart")
    if len(delivery.body) > LONGEST:
        raise _malformed(f"its body has more than {LONGEST} bytes")
    try:
        body = msgspec.json.decode(delivery.body, type=_Body)
    except msgspec.MsgspecError as problem:
        # It repeats names that the sender chose, which may hold what no row can.
        why = str(problem).encode("unicode_escape").decode("ascii")
        raise _malformed(f"its body isn't {{\"origin\": TEXT}}: {why}") from problem
    if not body.origin or len(body.origin) > LONGEST_ORIGIN or not body.origin.isprintable():
        raise _malformed(f"its origin must be one line of 1 to {LONGEST_ORIGIN} characters")
    return route[1], Kind(route[2]), body.origin


def _malformed(why: str) -> BootpointError:
    return error(Code.BUNDLE_REJECTED, f"a message on bp.events was refused: {why}", value=Reject.MALFORMED)
