"""Boot checks: which are due, whether the host has room for one, what is seen, and what is kept of it.

A check is a test VM that nobody uses. Each look at it is a task of its own, a few seconds apart, so that a machine that
takes ten minutes to come up holds up no other work.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.metric import BOOT_CHECKS
from bootpoint_common.store import count, event, point
from bootpoint_common.store import trial as trials
from bootpoint_common.store.database import Connection, one, one_row, rows, run
from bootpoint_common.store.point import Point
from bootpoint_common.units import MiB, format_size

from .context import Context
from .subject import Subject
from .targets.base import Target
from .verdict import LIMIT_SECONDS, Judgement, Seen, Verdict, judge

#: Seconds between two looks at a check.
LOOK_SECONDS = 2.0

#: Seconds after which a check's VM is ended even when no look could be made for a while.
LONGEST_SECONDS = LIMIT_SECONDS + 120.0

#: Seconds until a check that had to be skipped is tried again.
SKIP_SECONDS = 600.0

#: Seconds after which the history is told again of the same reason.
SAY_SECONDS = 24 * 3600.0

#: Memory in bytes that a check leaves to the host.
HOST_RESERVE = 512 * MiB

#: How a verdict is said in the history.
_WORDS = {Verdict.BOOTS: "boots", Verdict.DOES_NOT_BOOT: "does not boot", Verdict.UNKNOWN: "may or may not boot"}

#: Number of the advisory lock of whoever looks for due checks; any number that nobody else uses.
_LOCK = 0x626F6F74


def attend(connection: Connection) -> None:
    """Make the checks that are due, and give places to those that wait; nothing while another process does."""
    if not one_row(connection, "SELECT pg_try_advisory_xact_lock(%s) AS mine", _LOCK)["mine"]:
        return
    for row in rows(connection, _DUE):
        found = point.get(connection, row["head"])
        if found is None:
            continue
        plan(connection, row["replica_id"], row["seconds"])
        try:
            trials.create(
                connection, found, "check", requested_by="scheduler", seconds=LONGEST_SECONDS, automatic=True
            )  # fmt: skip
        except BootpointError as problem:  # the point is being merged: the next one will be there in a moment
            skip(connection, row["replica_id"], found, problem)
    trials.place(connection)


#: Newest points of replicas whose interval is over and which nothing checks at this moment; not those known as damaged.
_DUE = """
SELECT y.id AS replica_id, y.head, duration_seconds(j.spec #>> '{check,boot}') AS seconds
FROM replica y JOIN job j ON j.id = y.job_id JOIN boot_point p ON p.id = y.head LEFT JOIN boot_plan b
ON b.replica_id = y.id
WHERE j.enabled AND y.state = 'ok' AND y.definition IS NOT NULL AND p.state = 'committed' AND p.consolidated_at IS NULL
  AND p.damaged_at IS NULL AND duration_seconds(j.spec #>> '{check,boot}') IS NOT NULL
  AND (b.replica_id IS NULL OR b.not_before <= now())
  AND NOT EXISTS (SELECT 1 FROM test_vm t WHERE t.replica_id = y.id AND t.kind = 'check' AND t.state <> 'ended')
ORDER BY b.not_before NULLS FIRST
"""


def plan(connection: Connection, replica_id: UUID, seconds: float) -> None:
    """Write when a replica is checked next, unless something is said to come between."""
    run(
        connection,
        "INSERT INTO boot_plan (replica_id, not_before) VALUES (%s, now() + make_interval(secs => %s))"
        " ON CONFLICT (replica_id) DO UPDATE SET not_before = excluded.not_before",
        replica_id,
        seconds,
    )


def admit(context: Context, target: Target, subject: Subject) -> None:
    """Let a check begin, or say why not now.

    Raises:
        FatalError: ``host_full``: the host's memory doesn't allow it.
        RetryableError: ``busy``: a point is open, and the driver can't run a test meanwhile; ``host_unreachable``.
    """
    found, name, host = subject.trial, subject.point.name, subject.host.name
    if not target.can_test_while_open:
        with context.database.transaction() as connection:
            busy = one(connection, _UNFINISHED, found.replica_id)
        if busy is not None:
            text = f"host {host} can't test {name} while {busy['name']} is being written"
            raise error(Code.BUSY, text, job=subject.point.job, host=host)
    if found.touched:
        return  # it may run already, and be counted
    info = target.inspect_host()
    with context.database.transaction() as connection:
        promised = one_row(connection, _PROMISED, found.host_id, found.number)["bytes"]
    free = info.memory_bytes - info.running_memory_bytes - promised
    if free < subject.replica.memory_bytes + HOST_RESERVE:
        text = (
            f"{name} needs {format_size(subject.replica.memory_bytes)} of memory, host {host} has"
            f" {format_size(max(0, free))} beside its running VMs and keeps {format_size(HOST_RESERVE)}"
        )
        hint = "stop VMs on the host, or give the standby less memory"
        raise error(Code.HOST_FULL, text, job=subject.point.job, host=host, key="memory", hint=hint)


_UNFINISHED = "SELECT name FROM boot_point WHERE replica_id = %s AND state NOT IN ('committed', 'aborted') LIMIT 1"

#: Memory of VMs that are about to be started on a host, before one of a number.
_PROMISED = """
SELECT coalesce(sum((y.definition->>'memory_bytes')::bigint), 0)::bigint AS bytes
FROM test_vm t JOIN replica y ON y.id = t.replica_id
WHERE y.host_id = %s AND t.state = 'starting' AND t.number < %s
"""


def look(context: Context, subject: Subject) -> bool:
    """Look at a check once; returns whether it is to be ended now."""
    found = subject.trial
    with context.sessions.use(subject.host) as target:
        sight = target.look(subject.replica, found.test_id)
    before = Seen() if found.seen is None else msgspec.convert(found.seen, Seen)
    after, judgement = judge(before, sight, found.age or 0.0)
    with context.database.transaction() as connection:
        subject.check(connection)
        if not trials.looked(connection, found, msgspec.to_builtins(after), sight.picture):
            return True
        if judgement is None:
            trials.again(connection, found, delay=LOOK_SECONDS)
            return False
        boot = _keep(connection, subject, judgement)
        count.add(connection, {(BOOT_CHECKS, (str(judgement.verdict),)): 1})
        trials.end(connection, found.id, f"{judgement.verdict}: {judgement.reason}", boot=boot)
    return True


def _keep(connection: Connection, subject: Subject, judgement: Judgement) -> dict[str, Any]:
    """Write a verdict to its point, with the last picture that was seen."""
    found = subject.point
    shown = one_row(connection, "SELECT picture FROM test_vm WHERE id = %s", subject.trial.id)["picture"]
    boot: dict[str, Any] = {
        "verdict": str(judgement.verdict),
        "at": _now(),
        "duration_seconds": round(subject.trial.age or 0.0, 1),
        "screenshot": None if shown is None else f"boot/{found.run_number}.png",
        "reason": judgement.reason,
    }
    run(connection, "UPDATE boot_point SET boot = %s WHERE id = %s", Jsonb(boot), found.id)
    run(connection, "DELETE FROM boot_picture WHERE point_id = %s", found.id)
    if shown is not None:
        run(connection, "INSERT INTO boot_picture (point_id, png) VALUES (%s, %s)", found.id, shown)
    run(connection, _CHECKED, found.id)
    text = f"{found.name} {_WORDS[judgement.verdict]}: {judgement.reason}"
    event.of_point(connection, found, "boot_checked", text, actor="worker", details=boot)
    return boot


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


#: A check of the newest point, whoever asked for it, is the one that was due.
_CHECKED = """
INSERT INTO boot_plan (replica_id, not_before)
SELECT y.id, now() + make_interval(secs => duration_seconds(j.spec #>> '{check,boot}'))
FROM replica y JOIN job j ON j.id = y.job_id
WHERE y.head = %s AND duration_seconds(j.spec #>> '{check,boot}') IS NOT NULL
ON CONFLICT (replica_id) DO UPDATE
SET not_before = excluded.not_before, skipped = NULL, said_code = NULL, said_at = NULL
"""


def skip(connection: Connection, replica_id: UUID, subject: Point, problem: BootpointError) -> None:
    """Write why a due check wasn't made and when it is tried again; the history has each reason once a day."""
    plan(connection, replica_id, SKIP_SECONDS)
    skipped = {
        "code": str(problem.code),
        "message": problem.message,
        "at": _now(),
        "point": subject.name,
    }
    run(connection, "UPDATE boot_plan SET skipped = %s WHERE replica_id = %s", Jsonb(skipped), replica_id)
    news = run(
        connection,
        "UPDATE boot_plan SET said_code = %s, said_at = now() WHERE replica_id = %s AND (said_code IS DISTINCT FROM %s"
        " OR said_at < now() - make_interval(secs => %s))",
        str(problem.code),
        replica_id,
        str(problem.code),
        SAY_SECONDS,
    )
    if news:
        event.of_point(
            connection,
            subject,
            "boot_check_skipped",
            f"the boot check of {subject.name} was skipped: {problem.message}",
            actor="scheduler",
            code=str(problem.code),
        )
