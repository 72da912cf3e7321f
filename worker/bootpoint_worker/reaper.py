"""The reaper: enqueues work for whatever is unfinished and in nobody's hands, and gives up what will never end.

The broker may lose every task, and every worker may die: what a row says is to be done is found here again.
"""

from __future__ import annotations

import logging
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.store import ending, kept, line, outbox, point, trash
from bootpoint_common.store import trial as trials
from bootpoint_common.store.database import Connection, Row, one, present, rows, run
from bootpoint_common.store.point import State

from . import bootcheck, inventory
from .admission import give_up_late, start_message
from .context import Context
from .examine import request_missing
from .step import delete_streams

_log = logging.getLogger(__name__)

#: Seconds between two looks.
REAP_SECONDS = 2.0

#: Seconds after which a task that nobody took is sent once more.
RESEND_SECONDS = 30.0

#: Seconds of silence of an agent after which its unsealed point is given up.
SILENT_SECONDS = 300.0

#: Seconds without progress after which an open point is given up.
STALLED_SECONDS = 1800.0

#: Seconds that a question is kept beyond its end.
REQUEST_SECONDS = 24 * 3600.0

#: What the tasks of a point are, by its state.
_WORK = {State.OFFERED: "open_point", State.SEALED: "commit", State.COMMITTING: "commit", State.ABORTING: "abort"}


def reap(context: Context) -> None:
    """Look once over everything unfinished."""
    with context.database.transaction() as connection:
        line.withdraw(connection)
        give_up_late(connection)
        _enqueue_points(connection)
        _enqueue_disks(connection)
        _enqueue_merges(connection)
        _tell_again(connection)
        _expire_runs(connection)
        _end_unreported(connection)
        _forget_requests(connection)
        inventory.refresh(connection)
        request_missing(connection)
        trials.enqueue(connection, RESEND_SECONDS)
        trash.enqueue(connection, present(connection), RESEND_SECONDS)
        bootcheck.attend(connection)
        suspects = rows(connection, _SUSPECTS, SILENT_SECONDS, STALLED_SECONDS)
        ended = rows(connection, _LEFT_STREAMS, RESEND_SECONDS)
    for suspect in suspects:
        _look_at(context, suspect)
    for point_id in {row["point_id"] for row in ended}:
        with context.database.transaction() as connection:
            disks = point.disks(connection, point_id)
        delete_streams(context, disks)


#: Final points whose streams may still be there, a few at a time.
_LEFT_STREAMS = """
SELECT d.point_id FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id
WHERE d.stream_deleted_at IS NULL AND p.state IN ('committed', 'aborted')
  AND p.ended_at < now() - make_interval(secs => %s) ORDER BY p.ended_at LIMIT 20
"""


def _enqueue_points(connection: Connection) -> None:
    """Points whose replica nobody claims; a point that is open is its disks' business."""
    found = rows(
        connection,
        "UPDATE boot_point p SET enqueued_at = now() FROM replica y"
        " WHERE y.id = p.replica_id AND y.writer_until < now() AND p.state = ANY(%s)"
        " AND (p.enqueued_at IS NULL OR p.enqueued_at < now() - make_interval(secs => %s))"
        " RETURNING p.id, p.state, y.pool",
        [str(state) for state in _WORK],
        RESEND_SECONDS,
    )
    for row in found:
        outbox.task(connection, row["pool"], _WORK[State(row["state"])], row["id"])


def _enqueue_disks(connection: Connection) -> None:
    found = rows(
        connection,
        "UPDATE boot_point_disk d SET enqueued_at = now() FROM boot_point p JOIN replica y ON y.id = p.replica_id"
        " WHERE p.id = d.point_id AND p.state = 'open' AND d.sealed_at IS NULL AND d.writer_until < now()"
        " AND (d.enqueued_at IS NULL OR d.enqueued_at < now() - make_interval(secs => %s))"
        " AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.subject = d.id::text AND o.kind = 'replicate')"
        " RETURNING d.id, y.pool",
        RESEND_SECONDS,
    )
    for row in found:
        outbox.task(connection, row["pool"], "replicate", row["id"])


def _enqueue_merges(connection: Connection) -> None:
    """Replicas with more points than their job keeps, or with one that is half merged, and nothing else under way."""
    found = rows(
        connection,
        "UPDATE replica y SET consolidation_enqueued_at = now() FROM host h"
        " WHERE h.id = y.host_id AND y.state = 'ok' AND y.writer_until < now()"
        " AND (y.consolidation_enqueued_at IS NULL"
        "  OR y.consolidation_enqueued_at < now() - make_interval(secs => %s))"
        " AND NOT EXISTS (SELECT 1 FROM boot_point p WHERE p.replica_id = y.id"
        "  AND p.state NOT IN ('committed', 'aborted'))"
        " AND (y.consolidating IS NOT NULL OR y.frozen IS NULL AND (SELECT count(*) FROM boot_point p"
        "  WHERE p.replica_id = y.id AND p.state = 'committed' AND p.consolidated_at IS NULL)"
        f"  > (SELECT {kept.WANTED} FROM job j WHERE j.id = y.job_id)) RETURNING y.id, y.pool",
        RESEND_SECONDS,
    )
    for row in found:
        outbox.task(connection, row["pool"], "consolidate", row["id"])


def _tell_again(connection: Connection) -> None:
    """Orders that were lost on the way: an agent that lives and doesn't have the run in hand is told once more."""
    untold = rows(
        connection,
        "UPDATE run r SET enqueued_at = now() FROM agent a"
        " WHERE a.id = r.agent_id AND r.state = 'running' AND r.ending IS NULL"
        " AND r.expires_at > now() AND r.enqueued_at < now() - make_interval(secs => %s)"
        " AND NOT EXISTS (SELECT 1 FROM boot_point p WHERE p.run_uid = r.uid)"
        " AND NOT a.runs @> jsonb_build_array(jsonb_build_object('run', r.uid)) RETURNING r.uid, a.name",
        RESEND_SECONDS,
    )
    for row in untold:
        outbox.tell(connection, row["name"], row["uid"], start_message(connection, row["uid"]))


def _expire_runs(connection: Connection) -> None:
    """Runs that the agent never began: not in its hands, and no offer came in time, or before its machine was gone."""
    expired = rows(
        connection,
        "SELECT r.uid, r.job_name, r.last_breath, a.name FROM run r JOIN agent a ON a.id = r.agent_id"
        " WHERE r.state = 'running' AND r.ending IS NULL AND r.expires_at < now()"
        " AND NOT EXISTS (SELECT 1 FROM boot_point p WHERE p.run_uid = r.uid)"
        " AND NOT (a.runs @> jsonb_build_array(jsonb_build_object('run', r.uid))"
        " AND a.last_seen_at > now() - make_interval(secs => %s))",
        SILENT_SECONDS,
    )
    for row in expired:
        text = f"agent {row['name']} did not begin the run in time"
        code = Code.DEADLINE if row["last_breath"] else Code.AGENT_OFFLINE
        ending.end(connection, row["uid"], error(code, text, key="agent", value=row["name"]), actor="reaper")


def _end_unreported(connection: Connection) -> None:
    """Runs whose points are committed, and whose agent will never say how the script after them ended."""
    lost = rows(
        connection,
        "SELECT r.uid, r.job_name, a.name FROM run r JOIN agent a ON a.id = r.agent_id"
        " WHERE r.state = 'running' AND r.ending IS NULL AND r.reports"
        " AND EXISTS (SELECT 1 FROM boot_point p WHERE p.run_uid = r.uid)"
        " AND NOT EXISTS (SELECT 1 FROM boot_point p WHERE p.run_uid = r.uid"
        "  AND NOT (p.state = 'committed' AND p.committed_at < now() - make_interval(secs => %s)))"
        " AND NOT (a.runs @> jsonb_build_array(jsonb_build_object('run', r.uid))"
        "  AND a.last_seen_at > now() - make_interval(secs => %s))",
        RESEND_SECONDS,
        SILENT_SECONDS,
    )
    for row in lost:
        text = f"the point is committed, but agent {row['name']} never said how the script after_point ended"
        problem = error(Code.AGENT_RESTARTED, text, key="scripts.after_point", job=row["job_name"])
        ending.end(connection, row["uid"], problem, actor="reaper")


def _forget_requests(connection: Connection) -> None:
    """Forget the credentials of questions that nobody answered in time, and questions of long ago."""
    run(connection, "UPDATE request SET secret = NULL WHERE secret IS NOT NULL AND expires_at < now()")
    run(connection, "DELETE FROM request WHERE expires_at < now() - make_interval(secs => %s)", REQUEST_SECONDS)


#: Unsealed points whose agent has started anew without them, has gone silent, or which make no progress.
_SUSPECTS = """
SELECT p.id, p.state, a.name AS agent,
  (a.incarnation <> p.incarnation AND NOT a.runs @> jsonb_build_array(jsonb_build_object('run', r.uid))) AS restarted,
  (a.last_seen_at < now() - make_interval(secs => %s)) AS silent,
  (p.progress_at < now() - make_interval(secs => %s)) AS stalled
FROM boot_point p JOIN run r ON r.uid = p.run_uid JOIN agent a ON a.id = r.agent_id
WHERE p.state IN ('offered', 'open')
  AND EXISTS (SELECT 1 FROM boot_point_disk d WHERE d.point_id = p.id AND d.sealed_at IS NULL)
"""


def _look_at(context: Context, suspect: Row) -> None:
    """Give a point up once nothing of it is left in its streams; a machine that has shut down may have sent it all."""
    if not (suspect["restarted"] or suspect["silent"] or suspect["stalled"]):
        return
    with context.database.transaction() as connection:
        disks = point.disks(connection, suspect["id"])
    unsealed = [disk for disk in disks if disk.sealed_at is None]
    if not suspect["stalled"] and any(context.carrier.depth(disk.id) for disk in unsealed):
        return
    with context.database.transaction() as connection:
        found = point.get(connection, suspect["id"], lock=True)
        if found is None or str(found.state) != suspect["state"] or _in_hands(connection, found.id):
            return
        if suspect["restarted"]:
            problem = error(
                Code.AGENT_RESTARTED, f"agent {found.agent} started anew and does not know the run", job=found.job
            )
        else:
            why = f"agent {found.agent} is silent" if suspect["silent"] else "nothing was read, sent or written"
            problem = error(Code.STALLED, f"{found.name} made no progress: {why}", job=found.job)
        ending.give_up(connection, found.id, problem)


def _in_hands(connection: Connection, point_id: UUID) -> bool:
    """Tell whether a slice holds a disk of the point: what it has in hand may be the seal."""
    held = one(
        connection,
        "SELECT 1 FROM boot_point_disk WHERE point_id = %s AND writer_until >= now() AND sealed_at IS NULL",
        point_id,
    )
    return held is not None


def restart(context: Context) -> None:
    """Give up every unfinished point of a one-machine installation that starts anew; what is committing is redone.

    Its streams lived in memory and are gone.
    """
    with context.database.transaction() as connection:
        for row in rows(
            connection, "SELECT id FROM boot_point WHERE state IN ('offered', 'open', 'sealed') ORDER BY id"
        ):
            found = point.get(connection, row["id"], lock=True)
            if found is not None:
                ending.give_up(
                    connection,
                    found.id,
                    error(Code.AGENT_RESTARTED, "bootpoint was stopped in the midst of the run", job=found.job),
                )
        for row in rows(connection, "SELECT uid FROM run WHERE state = 'running' ORDER BY uid"):
            ending.end(
                connection,
                row["uid"],
                error(Code.AGENT_RESTARTED, "bootpoint was stopped in the midst of the run"),
                actor="up",
            )
        run(connection, "UPDATE run SET enqueued_at = NULL WHERE state = 'waiting'")
        run(connection, "UPDATE replica SET writer_until = '-infinity'")
        run(connection, "UPDATE boot_point_disk SET writer_until = '-infinity' WHERE sealed_at IS NULL")
        run(connection, "UPDATE test_vm SET writer_until = '-infinity', enqueued_at = NULL WHERE state <> 'ended'")
