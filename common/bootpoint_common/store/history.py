"""Reading the history: a page of it in any order, how many pages there are, all of it for a file.

At a million events a page is found by an index that holds the sorted column, the instant and the id (migration 0015):
what comes before the page is passed over in the index alone, from whichever end or `milestone` is nearer. How many
there are is summed from hours that were counted when they were over; only their rest is counted at the time.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from bootpoint_common.errors import Code, error

from . import milestone
from .database import Connection, Row, one, one_row, rows, run

#: Events on a page.
PAGE = 50

#: Seconds after an hour's end until it is counted: an event's instant is when its transaction began, and by then every
#: one of those has ended (a session that sits idle in one is cut after 20 s).
CLOSED_SECONDS = 3600.0

#: Places from either end beyond which a page is looked for from a milestone.
FAR = 5_000

#: Events that are fetched at a time when all of them are read.
_FETCH = 5000


class Sort(enum.StrEnum):
    """Columns that the history can be sorted by; the value is what a user writes."""

    #: Number of the event.
    ID = "id"
    #: When it happened.
    TIME = "time"
    #: What happened.
    KIND = "kind"
    #: Who did it.
    ACTOR = "actor"
    #: From where.
    ORIGIN = "origin"
    #: Which job.
    JOB = "job"
    #: Which run.
    RUN = "run"
    #: On which host.
    HOST = "host"
    #: The code of an error or a refusal.
    CODE = "code"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the sort's index; ties are in the order in which things happened."""
        if self is Sort.ID:
            return ("id",)
        return ("at", "id") if self is Sort.TIME else (str(self), "at", "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which events are wanted, and in which order.

    Attributes:
        job: Only those of this job.
        since: The first instant that counts; None: from the beginning.
        until: The first that no longer counts; None: up to now.
        sort: The column.
        descending: The greatest first; what has no value comes last then, and first otherwise.
    """

    job: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    sort: Sort = Sort.TIME
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """A page of events.

    Attributes:
        number: From 1.
        pages: How many there are; one where there is no event.
        total: Events on all pages.
        items: Those of this page, as `v_event` has them.
    """

    number: int
    pages: int
    total: int
    items: list[Row]


def page(connection: Connection, asked: Question, number: int) -> Page:
    """Return a page.

    Args:
        connection: A transaction.
        asked: Which events.
        number: From 1.

    Returns:
        The page.

    Raises:
        UsageError: ``spec_invalid``: there is no such page.
    """
    total = count(connection, asked)
    pages = max(1, -(-total // PAGE))
    if not 1 <= number <= pages:
        text = f"there is no page {number}: the last one is {pages}"
        raise error(Code.SPEC_INVALID, text, key="--page", value=number, hint=f"--page {pages}")
    before = (number - 1) * PAGE
    size = min(PAGE, total - before)
    after = total - before - size
    if min(before, after) > FAR and (asked.job, asked.since, asked.until) == (None, None, None):
        found = _from_milestone(connection, asked, after if asked.descending else before, size)
        if found is not None:
            return Page(number, pages, total, found[::-1] if asked.descending else found)
    # Whichever end is nearer; from the far end the page is read backwards.
    if before <= after:
        return Page(number, pages, total, _items(connection, asked, before, size))
    return Page(number, pages, total, _items(connection, asked, after, size, backwards=True)[::-1])


def _from_milestone(connection: Connection, asked: Question, place: int, size: int) -> list[Row] | None:
    """Return the events from a place on, counted from the smallest; None where no milestone is near."""
    near = milestone.near(connection, asked.sort, asked.sort.columns, place, size)
    if near is None:
        return None
    order = _order(replace(asked, descending=False))
    query = _query(asked, f"({near.rest}) AS n", order)
    return rows(connection, query, *near.values, place - near.place, size)


def _items(
    connection: Connection, asked: Question, before: int, size: int, *, backwards: bool = False
) -> list[Row]:
    query, values = page_query(asked, before, size, backwards=backwards)
    return rows(connection, query, *values)


def page_query(
    asked: Question, before: int, size: int, *, backwards: bool = False
) -> tuple[str, list[object]]:
    """Return the query of a page with its values: ids from an index alone, and then the events of those.

    Args:
        asked: Which events.
        before: How many are passed over.
        size: How many are wanted.
        backwards: Whether to begin at the other end.
    """
    where, values = _where(asked)
    return _query(asked, f"event{where}", _order(asked, backwards=backwards)), [*values, before, size]


def _query(asked: Question, source: str, order: str) -> str:
    found = f"SELECT {', '.join(asked.sort.columns)} FROM {source} ORDER BY {order} OFFSET %s LIMIT %s"
    wanted = ", ".join(f"e.{part}" for part in order.split(", "))
    return f"SELECT e.* FROM ({found}) AS k JOIN v_event AS e ON e.id = k.id ORDER BY {wanted}"


def _order(asked: Question, *, backwards: bool = False) -> str:
    way = "DESC NULLS LAST" if asked.descending is not backwards else "ASC NULLS FIRST"
    # NULLS has to be as in the index, also of columns that have none.
    plain = way.partition(" ")[0]
    first, *rest = asked.sort.columns
    lead = f"{first} {plain}" if first in ("id", "at") else f"{first} {way}"
    return ", ".join([lead, *(f"{column} {plain}" for column in rest)])


def _where(asked: Question) -> tuple[str, list[object]]:
    given = [("job = %s", asked.job), ("at >= %s", asked.since), ("at < %s", asked.until)]
    used = [(text, value) for text, value in given if value is not None]
    return (" WHERE " + " AND ".join(text for text, _ in used) if used else ""), [value for _, value in used]


def every(connection: Connection, asked: Question) -> Iterator[Row]:
    """Yield all events in the order asked for, a few thousand at a time, as `v_event` has them."""
    where, values = _where(asked)
    query = f"SELECT * FROM v_event{where} ORDER BY {_order(asked)}"
    with connection.cursor("history") as cursor:
        cursor.itersize = _FETCH
        yield from cursor.execute(query.encode(), values)


def get(connection: Connection, number: int) -> Row:
    """Read one event.

    Raises:
        NotFoundError: ``no_such_event``.
    """
    found = one(connection, "SELECT * FROM v_event WHERE id = %s", number)
    if found is None:
        raise error(Code.NO_SUCH_EVENT, f"there is no event {number}", key="event", value=number)
    return found


# --- counting


def count(connection: Connection, asked: Question) -> int:
    """Count events: of a job by its index, else by the hours that were counted and what lies before and after them."""
    if asked.job is not None:
        return _count(connection, asked.job, asked.since, asked.until)
    counted = _counted_until(connection)
    first = _next_hour(asked.since)
    last = counted if asked.until is None or counted is None else min(counted, _hour(asked.until))
    if last is None or (first is not None and first >= last):
        return _count(connection, None, asked.since, asked.until)
    hours = one_row(
        connection,
        "SELECT coalesce(sum(events), 0)::bigint AS n FROM event_hour"
        " WHERE (%s::timestamptz IS NULL OR hour >= %s) AND hour < %s",
        *(first, first, last),
    )
    before = 0 if first is None else _count(connection, None, asked.since, first)
    return before + int(hours["n"]) + _count(connection, None, last, asked.until)


def _count(connection: Connection, job: str | None, since: datetime | None, until: datetime | None) -> int:
    where, values = _where(Question(job=job, since=since, until=until))
    return int(one_row(connection, f"SELECT count(*) AS n FROM event{where}", *values)["n"])


def _counted_until(connection: Connection) -> datetime | None:
    newest = one_row(connection, "SELECT max(hour) AS hour FROM event_hour")["hour"]
    return None if newest is None else newest + timedelta(hours=1)


def _hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _next_hour(instant: datetime | None) -> datetime | None:
    if instant is None:
        return None
    begun = _hour(instant)
    return begun if begun == instant else begun + timedelta(hours=1)


def count_hours(connection: Connection, now: datetime) -> None:
    """Count the events of every hour that is over and wasn't counted; any number of processes may do so at once.

    Args:
        connection: A transaction.
        now: The present instant.
    """
    closed = _closed(now)
    counted = _counted_until(connection)
    if counted is not None and counted >= closed:
        return
    newest = closed - timedelta(hours=1)
    run(
        connection,
        "INSERT INTO event_hour (hour, events) SELECT date_trunc('hour', at, 'UTC') AS hour, count(*) FROM event"
        " WHERE (%s::timestamptz IS NULL OR at >= %s) AND at < %s GROUP BY 1 ON CONFLICT (hour) DO NOTHING",
        *(counted, counted, closed),
    )
    run(connection, "INSERT INTO event_hour (hour, events) VALUES (%s, 0) ON CONFLICT (hour) DO NOTHING", newest)


def set_milestones(connection: Connection, now: datetime, *, step: int = milestone.STEP) -> None:
    """Make milestones of every sort where they are missing, or too old to be of use.

    Args:
        connection: A transaction.
        now: The present instant.
        step: Places between two.
    """
    sorts = {str(sort): sort.columns for sort in Sort}
    milestone.make(connection, sorts, _closed(now), count(connection, Question()), step=step)


def _closed(now: datetime) -> datetime:
    """Return the end of the last hour that gets no more events."""
    return _hour(now - timedelta(seconds=CLOSED_SECONDS))
