"""One round of a scheduler: rows that are due and in nobody's hands become runs, in one transaction.

Whoever dies in it leaves nothing behind: the rows are due still, and the next process takes them. So each start of a
schedule becomes exactly one thing: a run, a part of a catch-up, or a line of the history that says why not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.errors import Code, error
from bootpoint_common.store import due as dues
from bootpoint_common.store import event, outbox, source_event
from bootpoint_common.store.database import Connection, Database, one_row, present, run
from bootpoint_common.store.due import Due, Kind
from bootpoint_common.store.start import Skipped, Wanted, skip, start

from .decision import Decision, Streak, decide

#: Seconds between two rounds that find nothing.
ROUND_SECONDS = 1.0

#: Rows that are dealt with in one transaction: so few that others have their share, so many that the ten thousand jobs
#: of a minute are in the line within seconds.
BATCH = 500

#: Seconds after which a process that was frozen amid a round lets go of its rows; what it had is due still.
FROZEN_SECONDS = 5

#: Seconds for decisions in one transaction, in which the database hears nothing: after an outage of weeks each takes a
#: while, and `FROZEN_SECONDS` would never let a whole batch of them be carried out.
DECIDE_SECONDS = 1.0

#: Who makes the runs that nobody asked for.
ACTOR = "scheduler"

#: Of two things of a job that are due at once, which one is to have the run.
_FIRST = list(Kind)


def attend(
    database: Database, *, origin: str, now: datetime | None = None, chance: Callable[[], float] = random.random
) -> int:
    """Do one round.

    Args:
        database: The truth.
        origin: The process, for the history.
        now: The instant; by default the database's, which all processes share.
        chance: Randomness from 0 up to 1.

    Returns:
        How many rows were dealt with; when it is not 0, there may be more.
    """
    with database.transaction() as connection:
        be_quick(connection)
        at = now or present(connection)
        done = dues.end_pauses(connection, at)
        done += dues.plan_new(connection, at, BATCH)
    with database.transaction() as connection:
        be_quick(connection)
        found = dues.take(connection, at, BATCH)
        found.sort(key=lambda each: _FIRST.index(each.kind))
        done += _carry_out(connection, _decided(found, at, chance), at, origin)
    return done


def be_quick(connection: Connection) -> None:
    """Let a transaction end by itself if its process freezes: what it holds is due still, and others are to have it."""
    run(connection, f"SET LOCAL idle_in_transaction_session_timeout = '{FROZEN_SECONDS}s'")


def _decided(found: Sequence[Due], at: datetime, chance: Callable[[], float]) -> list[tuple[Due, Decision]]:
    """Say what to do with rows, as many as there is time for; the first one always."""
    until = time.monotonic() + DECIDE_SECONDS
    decided: list[tuple[Due, Decision]] = []
    for each in found:
        decided.append((each, decide(each, at, chance())))
        if time.monotonic() > until:
            break
    return decided


def _carry_out(connection: Connection, decided: Sequence[tuple[Due, Decision]], now: datetime, origin: str) -> int:
    """Do what was decided; returns with how many rows it could be done."""
    begun = start(connection, [_wanted(*each, origin) for each in decided if each[1].makes_run])
    done: list[tuple[Due, Decision]] = []
    for due, decision in decided:
        if decision.makes_run and due.job_id not in begun:
            continue  # another run of the job came first, and this row is decided upon anew
        if decision.makes_run:
            uid = begun.pop(due.job_id)
            if due.kind is Kind.EVENT:
                source_event.serve(connection, due.job_id, uid)
        done.append((due, decision))
    left_out = [_skipped(*each, now, origin) for each in done if each[1].skip is not None]
    for uid, skipped in zip(skip(connection, left_out), left_out, strict=True):
        if skipped.code is Code.DEADLINE:
            _let_go(connection, uid, skipped)
    skip(connection, [_missed(due, decision.missed, now, origin) for due, decision in done if decision.missed])
    dues.move(connection, [(due, decision.next) for due, decision in done if decision.next is not None])
    dues.drop(connection, [due for due, decision in done if decision.next is None])
    for due, decision in done:
        if decision.catch_up is not None and decision.made_up is not None:
            dues.put_catch_up(connection, due.job_id, decision.catch_up, decision.made_up.as_json())
            _tell(connection, due, "catch_up_planned", _coming(decision.made_up, decision.catch_up), origin)
        if decision.dropped is not None:
            _tell(connection, due, f"{due.kind}_dropped", f"no {due.kind} run: {decision.dropped}", origin)
    return len(done)


def _wanted(due: Due, decision: Decision, origin: str) -> Wanted:
    asked = due.details.get("actor") if due.kind is Kind.EVENT else None
    return Wanted(
        job_id=due.job_id,
        trigger=str(due.kind),
        requested_by=asked or ACTOR,
        origin=due.details.get("origin") if asked else origin,
        due_at=decision.start,
        attempt=due.details.get("attempt", 1),
        last_breath=bool(due.details.get("last_breath")),
        begin_by=due.until,
        details=_details(due, decision),
    )


def _details(due: Due, decision: Decision) -> dict[str, Any] | None:
    """Return what the history says beside the run: what it makes up for, what it follows."""
    if decision.made_up is not None:
        return {"made_up": decision.made_up.as_json()}
    if due.kind is Kind.CATCH_UP:
        return {"made_up": due.details}
    return due.details or None


def _skipped(due: Due, decision: Decision, now: datetime, origin: str) -> Skipped:
    code = decision.skip or Code.ALREADY_RUNNING
    if code is Code.DEADLINE:
        message = f"job {due.job} had another run under way until the deadline of the {due.details.get('event')}"
    else:
        message = f"job {due.job} had run {due.busy} under way"
    return Skipped(
        job_id=due.job_id,
        trigger=str(due.kind),
        requested_by=ACTOR,
        origin=origin,
        due_at=decision.start or due.at,
        at=now,
        code=code,
        message=message,
        details=_details(due, decision),
    )


def _let_go(connection: Connection, uid: UUID, skipped: Skipped) -> None:
    """Tell a machine that goes down that the run which it waits for doesn't begin any more."""
    source_event.serve(connection, skipped.job_id, uid)
    job = one_row(
        connection, "SELECT j.name, a.name AS agent FROM job j JOIN agent a ON a.id = j.agent_id WHERE j.id = %s",
        skipped.job_id,
    )  # fmt: skip
    problem = message.Problem.of(error(skipped.code, skipped.message, job=job["name"]))
    told = message.Aborted(run=uid, replica_id=None, point_id=None, problem=problem, job=job["name"])
    outbox.tell(connection, job["agent"], uid, told)


def _missed(due: Due, streak: Streak | None, now: datetime, origin: str) -> Skipped:
    assert streak is not None  # noqa: S101 - asked for where there is one
    return Skipped(
        job_id=due.job_id,
        trigger=str(due.kind),
        requested_by=ACTOR,
        origin=origin,
        due_at=streak.first,
        at=now,
        code=Code.MISSED,
        message=f"nobody could start {streak}, and run.catch_up is over",
        details={"missed": streak.as_json()},
    )


def _coming(streak: Streak, at: datetime) -> str:
    return f"nobody started {streak}; one run makes up for it at {at:%Y-%m-%d %H:%M:%S} UTC"


def _tell(connection: Connection, due: Due, kind: str, text: str, origin: str) -> None:
    event.record(
        connection, kind, text, actor=ACTOR, origin=origin, job=due.job, agent=due.agent, details=due.details or None
    )
