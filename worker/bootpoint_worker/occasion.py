"""What a source's shutdown or restart means: which runs begin, whoever says it, and however often."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import RunRules, read_json
from bootpoint_common.store import agent as agents
from bootpoint_common.store import event, source_event
from bootpoint_common.store.agent import Agent
from bootpoint_common.store.database import Connection, present
from bootpoint_common.store.source_event import Kind, SourceEvent

from .refusal import Refusals
from .scheduling import event as scheduled

#: Seconds within which the same, said again, is one event: the machine's own word, its UPS's and its hypervisor's.
MERGE_SECONDS = 60.0

#: Events of a source within `PERIOD_SECONDS`; what goes beyond is refused: a machine that starts in a loop, or a sender
#: gone mad.
MOST, PERIOD_SECONDS = 20, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """That something happens to a source.

    Attributes:
        source: Name of its agent.
        kind: What happens.
        actor: Who says so, as the history shows it.
        origin: From where, in the sender's words.
        unheard: Whether the source was shut down before, and nobody took that.
        own: Whether the source's own agent says it; others must not speak of a source whose jobs don't care.
    """

    source: str
    kind: Kind
    actor: str
    origin: str
    unheard: bool = False
    own: bool = False

    @property
    def by(self) -> str:
        """Who says so, and from where."""
        return f"{self.actor}: {self.origin}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an event led to.

    Attributes:
        repeated: Whether it had been said a moment before.
        runs: What it means for each job that it concerns.
    """

    repeated: bool
    runs: list[message.EventRun]


def take(connection: Connection, said: Said, *, at: datetime | None = None) -> Outcome:
    """Begin the runs that jobs want at an event.

    Args:
        connection: A transaction.
        said: What happens.
        at: When; by default now.

    Returns:
        What came of it, written to the history.

    Raises:
        NotFoundError: ``no_such_agent``; ``no_such_job``: no job wants a run at this event, and the source itself
            didn't say it.
        FatalError: ``agent_revoked``.
        RetryableError: ``busy``: too many events of this source.
    """
    found = agents.find(connection, said.source, lock=True)  # one event of a source at a time
    if found is None:
        raise error(Code.NO_SUCH_AGENT, f"there is no agent {said.source}", key="source", value=said.source)
    if found.revoked_at is not None:
        raise error(Code.AGENT_REVOKED, f"the key of agent {said.source} was revoked", value=said.source)
    now = at or present(connection)
    last = source_event.newest(connection, found.id)
    if last is not None and last.kind is said.kind and now - last.at < timedelta(seconds=MERGE_SECONDS):
        return _repeated(connection, said, last)
    if source_event.count(connection, found.id, now - timedelta(seconds=PERIOD_SECONDS)) >= MOST:
        text = f"{said.source} has had {MOST} events within {PERIOD_SECONDS / 60:.0f} minutes"
        raise error(Code.BUSY, text, key="source", value=said.source, hint="find out who says so, and why so often")
    wanted = _wanted(connection, found, said)
    if not wanted and not said.own:
        hint = f"set {_KEYS[said.kind]} in a job of this source, or leave it out at the sender"
        text = f"no enabled job of {said.source} wants a run at its {said.kind}"
        raise error(Code.NO_SUCH_JOB, text, key="source", value=said.source, hint=hint)
    made = source_event.add(connection, found.id, said.kind, now, said.by)
    _record(connection, said, f"source_{said.kind}", f"{said.source}: {said.kind}", made)
    return Outcome(False, [_start(connection, job, made, said) for job in wanted])


#: The job file's keys that ask for runs at an event.
_KEYS = {Kind.SHUTDOWN: "run.on_shutdown", Kind.RESTART: "run.on_restart"}


def _wanted(connection: Connection, found: Agent, said: Said) -> list[tuple[int, str, RunRules]]:
    """Return the jobs that want a run: at a restart also those whose shutdown has no point."""
    wanted = []
    for job_id, name, spec in source_event.jobs(connection, found.id):
        rules = read_json(spec).run
        if said.kind is Kind.SHUTDOWN:
            asked = rules.on_shutdown.enabled
        else:
            owed = said.unheard or source_event.owed(connection, found.id, job_id)
            asked = rules.on_restart or (rules.on_shutdown.enabled and owed)
        if asked:
            wanted.append((job_id, name, rules))
    return wanted


def _repeated(connection: Connection, said: Said, last: SourceEvent) -> Outcome:
    if source_event.said_too(connection, last, said.by):
        _record(connection, said, "source_event_repeated", f"{said.source}: {said.kind}, said again", last)
    again = [
        message.EventRun(job=row["job"], run=row["uid"], number=row["id"], seconds=row["seconds"])
        for row in source_event.concerned(connection, last.id)
    ]
    return Outcome(True, again)


def _start(
    connection: Connection, job: tuple[int, str, RunRules], made: SourceEvent, said: Said
) -> message.EventRun:
    """Begin the run of one job, or let it wait for the end of the one that the job has."""
    job_id, name, rules = job
    seconds = rules.on_shutdown.deadline_seconds if made.kind is Kind.SHUTDOWN else None
    begun = scheduled.start(
        connection, job_id, event=str(made.kind), deadline_seconds=seconds, actor=said.actor, origin=said.origin
    )
    uid, number = (None, None) if begun is None else (begun.uid, begun.id)
    source_event.concern(connection, made, job_id, uid, seconds)
    return message.EventRun(job=name, run=uid, number=number, seconds=seconds)


def refuse(
    connection: Connection, refusals: Refusals, problem: BootpointError, *, source: str | None, actor: str, origin: str
) -> None:
    """Write to the history that an event was refused; of many alike only the first ones.

    Args:
        connection: A transaction.
        refusals: Which refusals the history gets.
        problem: Why.
        source: The source, where the sender named one that exists.
        actor: Who says it.
        origin: From where, in the sender's words.
    """
    left_out = refusals.admit("event", source, str(problem.code))
    if left_out is not None:
        event.record(
            connection, "source_event_refused", problem.message, actor=actor, origin=origin, agent=source,
            code=str(problem.code), details={"left_out": left_out},
        )  # fmt: skip


def _record(connection: Connection, said: Said, kind: str, text: str, of: SourceEvent) -> None:
    details: dict[str, Any] = {"event": str(of.id), "at": of.at.isoformat()}
    event.record(connection, kind, text, actor=said.actor, origin=said.origin, agent=said.source, details=details)
