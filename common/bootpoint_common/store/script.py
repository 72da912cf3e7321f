"""What a job's scripts did in a run, as agents tell it."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common import message
from bootpoint_common.errors import Code

from . import event
from .database import Connection, run
from .run import Run, get


def add(connection: Connection, run_uid: UUID, results: list[message.ScriptResult]) -> None:
    """Keep what scripts of the job did, one result a stage; one that failed is an event, the first time it is told."""
    found = get(connection, run_uid, lock=True)
    if not results or found is None:
        return
    known = {script["stage"] for script in found.scripts}
    for result in results:
        if result.exit_code != 0 and result.stage not in known:
            _note_failure(connection, found, result)
    stages = [r.stage for r in results]
    objects = [
        {"stage": r.stage, "exit_code": r.exit_code, "duration_seconds": r.duration_seconds, "output": r.output}
        for r in results
    ]
    run(
        connection,
        "UPDATE run SET scripts = (SELECT coalesce(jsonb_agg(s), '[]') FROM jsonb_array_elements(scripts) s"
        " WHERE NOT s->>'stage' = ANY(%s)) || %s WHERE uid = %s",
        stages,
        Jsonb(objects),
        run_uid,
    )


def _note_failure(connection: Connection, found: Run, result: message.ScriptResult) -> None:
    how = "was ended" if result.exit_code is None else f"ended with exit code {result.exit_code}"
    event.record(
        connection,
        "script_failed",
        f"the script {result.stage} {how}",
        actor=f"agent {found.agent}",
        job=found.job_name,
        run_number=found.id,
        agent=found.agent,
        code=str(Code.SCRIPT_FAILED),
        details={"stage": result.stage, "exit_code": result.exit_code, "duration_seconds": result.duration_seconds},
    )
