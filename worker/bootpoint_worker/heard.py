"""What an agent's messages do, once the ingress has let them in: only what its own runs and questions allow."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
import psycopg

from bootpoint_common import message
from bootpoint_common.cipher import Reject
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.metric import CREDIT_WAIT
from bootpoint_common.store import (
    agent,
    count,
    ending,
    event,
    limit,
    outbox,
    point,
    request,
    script,
    transition,
    watermark,
)
from bootpoint_common.store import run as runs
from bootpoint_common.store.agent import Agent
from bootpoint_common.store.database import Connection, Row, rows, run
from bootpoint_common.store.point import LAST_BREATH_WINDOW, State
from bootpoint_common.store.source_event import Kind

from . import inventory, occasion
from .refusal import Refusals

#: Longest text of an agent's error that is kept.
_LONGEST_TEXT = 4000

#: Longest text that is kept of who told an agent of an event.
_LONGEST_ORIGIN = 200


#: Runs and disks of one heartbeat, and disks of one offer, at most: each costs statements, or a stream. An agent has
#: one or two runs in hand, and no machine with more disks is known.
_MOST_RUNS, _MOST_DISKS = 64, 256


class _Entries(msgspec.Struct):
    """Entries of segments, by number, as base64; whether they are true says their digest (`damaged`)."""

    entries: dict[str, str]


#: What the answer to a question must be, by its kind.
_SHAPES: dict[str, type[msgspec.Struct]] = {"disks": inventory.Inventory, "entries": _Entries}


def _own_run(connection: Connection, found: Agent, uid: UUID) -> runs.Run | None:
    """Return the run if it is this agent's."""
    known = runs.get(connection, uid)
    return known if known is not None and known.agent_id == found.id else None


def _own_open_disks(connection: Connection, found: Agent, ids: list[UUID]) -> list[Row]:
    return rows(
        connection,
        "SELECT d.id, d.watermark_bytes, d.window_bytes, y.pool FROM boot_point_disk d"
        " JOIN boot_point p ON p.id = d.point_id JOIN run r ON r.uid = p.run_uid JOIN replica y ON y.id = p.replica_id"
        " WHERE d.id = ANY(%s) AND r.agent_id = %s AND p.state = 'open' AND d.sealed_at IS NULL ORDER BY d.id",
        ids,
        found.id,
    )


def more(connection: Connection, found: Agent, content: message.More) -> None:
    """Cut an idle stream's wait short: there is something in it."""
    for disk in _own_open_disks(connection, found, content.disks):
        outbox.task(connection, disk["pool"], "replicate", disk["id"])


def credit_query(connection: Connection, found: Agent, content: message.CreditQuery) -> None:
    """Tell the agent how far it may send, and look at the stream."""
    for disk in _own_open_disks(connection, found, content.disks):
        until = disk["watermark_bytes"] + disk["window_bytes"]
        credit = message.Credit(point_disk_id=disk["id"], may_send_until=until)
        outbox.tell(connection, found.name, disk["id"], credit)
        outbox.task(connection, disk["pool"], "replicate", disk["id"])


def report(connection: Connection, found: Agent, content: message.Report) -> None:
    """Keep what the run's scripts did; a run that waited for it has ended now."""
    if _own_run(connection, found, content.run) is None:
        return
    script.add(connection, content.run, content.scripts)
    ending.settle(connection, content.run)
    outbox.tell(connection, found.name, content.run, message.Noted(run=content.run))


def heartbeat(connection: Connection, found: Agent, content: message.Heartbeat) -> None:
    """Keep what the agent has in hand and how far that is."""
    # A disk is named once for each replica that it is copied to.
    disks = {(progress.run, disk.slot) for progress in content.runs for disk in progress.disks}
    if len(content.runs) > _MOST_RUNS or len(disks) > _MOST_DISKS:
        text = f"agent {found.name} has more than {_MOST_RUNS} runs or {_MOST_DISKS} disks in hand"
        raise error(Code.BUNDLE_REJECTED, text, value=Reject.MALFORMED)
    agent.in_hand(connection, found.id, msgspec.to_builtins(content.runs))
    waited = 0.0
    for progress in content.runs:
        for disk in progress.disks:
            # A disk that is scanned and found unchanged sends nothing for hours: that is progress too.
            run(
                connection,
                "UPDATE boot_point p SET progress_at = now() FROM run r, boot_point_disk d WHERE p.run_uid = %s"
                " AND r.uid = p.run_uid AND r.agent_id = %s AND d.point_id = p.id AND d.slot = %s"
                " AND p.state = 'open' AND coalesce(d.scanned_bytes, 0) < %s",
                progress.run,
                found.id,
                disk.slot,
                disk.scanned_bytes,
            )
            waited += watermark.progress(connection, found.id, progress.run, disk)
        _tell_of_end(connection, found, progress.run)
        if progress.revision is not None and _own_run(connection, found, progress.run) is not None:
            limit.tell_late(connection, progress.run, progress.revision)
    if waited:
        count.add(connection, {(CREDIT_WAIT, ()): waited})


def _tell_of_end(connection: Connection, found: Agent, uid: UUID) -> None:
    """Tell an agent that has a run in hand which ended without it knowing (a message was lost with a broker)."""
    known = _own_run(connection, found, uid)
    if known is not None and known.state in ("waiting", "running"):
        return
    points = "SELECT id, replica_id, name, state, problem FROM boot_point WHERE run_uid = %s"
    for row in rows(connection, points, uid) if known is not None else ():
        if row["state"] == State.COMMITTED:
            told: message.ToAgent = message.Committed(
                run=uid, replica_id=row["replica_id"], point_id=row["id"], name=row["name"], run_ended=True
            )
        else:
            told = message.Aborted(
                run=uid, replica_id=row["replica_id"], point_id=row["id"], problem=_problem(row["problem"])
            )
        outbox.tell(connection, found.name, row["id"], told)
    ended = message.Aborted(
        run=uid, replica_id=None, point_id=None, problem=message.Problem(code="stalled", message="the run has ended")
    )
    outbox.tell(connection, found.name, uid, ended)


def _problem(stored: dict[str, str] | None) -> message.Problem:
    value = stored or {}
    return message.Problem(code=value.get("code", "stalled"), message=value.get("message", ""), hint=value.get("hint"))


def offer(connection: Connection, found: Agent, incarnation: UUID, content: message.Offer, window_bytes: int) -> None:
    """Make an offered point for each target of the run; repeated, it only has them opened again."""
    known = _own_run(connection, found, content.run)
    if known is None:
        raise error(
            Code.NO_SUCH_RUN,
            f"agent {found.name} offers a snapshot for a run that isn't its own",
            value=str(content.run),
        )
    if known.state != "running" or known.ending is not None:
        _tell_of_end(connection, found, content.run)
        return
    slots = {disk.slot for disk in content.disks}
    if not 0 < len(slots) == len(content.disks) <= _MOST_DISKS or content.instant.tzinfo is None:
        text = f"agent {found.name} offers no disk, too many, or one slot twice, or an instant without a time zone"
        raise error(Code.BUNDLE_REJECTED, text, value=Reject.MALFORMED)
    script.add(connection, content.run, content.scripts)
    run(
        connection,
        "UPDATE run SET consistency = %s, snapshot = %s WHERE uid = %s",
        content.consistency,
        content.snapshot,
        known.uid,
    )
    instant, wrong = point.free_instant(connection, known.uid, content.instant)
    targets = rows(
        connection,
        "SELECT t.replica_id, y.pool FROM run_target t JOIN replica y ON y.id = t.replica_id"
        " WHERE run_uid = %s ORDER BY 1",
        known.uid,
    )
    for target in targets:
        existing = point.of_run(connection, known.uid, target["replica_id"])
        if existing is not None:
            outbox.task(connection, target["pool"], "open_point", existing.id)
            continue
        if wrong is not None:
            event.record(
                connection,
                "clock_skew",
                f"the clock of {found.name} {wrong}",
                actor="worker",
                job=known.job_name,
                run_number=known.id,
                agent=found.name,
                code=str(Code.CLOCK_SKEW),
            )
        window = LAST_BREATH_WINDOW if known.last_breath else window_bytes
        _create_point(connection, known, content, target, incarnation=incarnation, instant=instant, window=window)


def _create_point(
    connection: Connection,
    known: runs.Run,
    content: message.Offer,
    target: Row,
    *,
    incarnation: UUID,
    instant: datetime,
    window: int,
) -> None:
    bases = {replica.replica_id: replica.base for replica in content.replicas}
    replica_id: UUID = target["replica_id"]
    try:
        with connection.transaction():
            point_id = transition.create(
                connection,
                run_uid=known.uid,
                replica_id=replica_id,
                instant=instant,
                consistency=content.consistency,
                incarnation=incarnation,
                offered_base=bases.get(replica_id),
                sizes=[(disk.slot, disk.size_bytes) for disk in content.disks],
                window_bytes=window,
            )
    except psycopg.errors.UniqueViolation:
        problem = error(
            Code.POINT_OPEN, f"another boot point of job {known.job_name} isn't finished", job=known.job_name
        )
        ending.end(connection, known.uid, problem, actor="worker")
        return
    outbox.task(connection, target["pool"], "open_point", point_id)


def failed(connection: Connection, found: Agent, content: message.Failed) -> None:
    """End the run that the agent gave up, or tell the agent how it ended before."""
    known = _own_run(connection, found, content.run)
    if known is None:
        raise error(Code.NO_SUCH_RUN, f"agent {found.name} speaks of a run that isn't its own", value=str(content.run))
    code = Code(content.problem.code) if content.problem.code in set(Code) else Code.SNAPSHOT_FAILED
    problem = error(
        code,
        content.problem.message[:_LONGEST_TEXT],
        key=content.problem.key,
        value=content.problem.value,
        hint=content.problem.hint,
        job=known.job_name,
    )
    if not ending.end(connection, known.uid, problem, actor=f"agent {found.name}"):
        _tell_of_end(connection, found, known.uid)
    # After the end: it locks the points, which everybody locks before their run.
    script.add(connection, content.run, content.scripts)


def happened(connection: Connection, found: Agent, content: message.Event, refusals: Refusals) -> None:
    """Take a shutdown or a restart of the agent's machine, and tell the agent what came of it."""
    if content.kind not in set(Kind):
        text = f"agent {found.name} speaks of an event {content.kind!r}"
        raise error(Code.BUNDLE_REJECTED, text[:_LONGEST_TEXT], value=Reject.MALFORMED)
    actor, origin = f"agent {found.name}", content.origin[:_LONGEST_ORIGIN]
    said = occasion.Said(
        source=found.name, kind=Kind(content.kind), actor=actor, origin=origin, unheard=content.unheard, own=True
    )
    try:
        outcome = occasion.take(connection, said)
        told = message.EventTaken(id=content.id, repeated=outcome.repeated, runs=outcome.runs)
    except BootpointError as problem:
        occasion.refuse(connection, refusals, problem, source=found.name, actor=actor, origin=origin)
        told = message.EventTaken(id=content.id, problem=message.Problem.of(problem))
    outbox.tell(connection, found.name, content.id, told)


def answer(connection: Connection, found: Agent, content: message.Answer) -> None:
    """Answer the request that the agent was asked; its list of disks is kept."""
    asked = request.get(connection, content.request)
    if asked is None or asked.addressee != f"agent {found.name}":
        raise error(Code.BUNDLE_REJECTED, f"agent {found.name} answers what it was not asked", value=Reject.AGENT)
    problem = None
    if content.problem is not None:
        code = Code(content.problem.code) if content.problem.code in set(Code) else Code.BUSY
        problem = error(
            code,
            content.problem.message,
            key=content.problem.key,
            value=content.problem.value,
            hint=content.problem.hint,
        )
    if problem is None and asked.kind in _SHAPES:
        try:
            msgspec.convert(content.answer, _SHAPES[asked.kind])
        except msgspec.ValidationError as wrong:
            text = f"agent {found.name} answers nonsense: {wrong}"
            problem = error(Code.BUNDLE_REJECTED, text, value=Reject.MALFORMED)
    if problem is None and asked.kind == "disks":
        inventory.keep(connection, found, content.answer)
    request.answer(connection, asked.id, None if problem is not None else content.answer, problem)
