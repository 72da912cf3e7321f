"""Test VMs and boot checks as the command line shows them, and how it asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, NotFoundError, RefusedError, error
from bootpoint_common.store import event, outbox, point
from bootpoint_common.store import trial as trials
from bootpoint_common.store.database import Connection, Database, one, one_row, rows
from bootpoint_common.store.job import ReplicaRow
from bootpoint_common.store.request import from_json
from bootpoint_common.store.shown import jsonable

#: Seconds between two looks at a test VM's row.
INTERVAL = 0.25

#: Seconds that a boot check runs at most: the worker's own limit and some time to start and end the VM.
CHECK_SECONDS = 720.0

#: Seconds for which a test that went wrong is still listed.
_LISTED_SECONDS = 24 * 3600.0

_ITEM = """
SELECT t.number AS id, t.kind, y.job_name AS job, h.name AS host, h.kind AS host_kind, p.name AS point, t.state,
    y.definition->>'vm_name' AS standby, t.id AS uid, t.requested_by, t.created_at, t.started_at, t.until, t.ended_at,
    t.ending AS reason, t.problem, t.boot
FROM test_vm t JOIN replica y ON y.id = t.replica_id JOIN host h ON h.id = y.host_id
JOIN boot_point p ON p.id = t.point_id
"""


def listed(connection: Connection, *, every: bool = False) -> list[dict[str, Any]]:
    """Return the test VMs that there are, and those of the last day that went wrong; with ``every`` all of them."""
    query = _ITEM + (
        "WHERE %s OR t.state <> 'ended' OR (t.problem IS NOT NULL AND t.ended_at > now() - make_interval(secs => %s))"
        " ORDER BY t.number"
    )
    return [_item(row) for row in rows(connection, query, every, _LISTED_SECONDS)]


def by_id(connection: Connection, uid: UUID) -> dict[str, Any]:
    """Return one test VM."""
    return _item(one_row(connection, _ITEM + "WHERE t.id = %s", uid))


def _item(row: dict[str, Any]) -> dict[str, Any]:
    uid, standby, kind = row.pop("uid"), row.pop("standby"), row.pop("host_kind")
    name = f"{standby}-test-{row['id']}-{uid.hex[-4:]}"  # as in `Trial.test_id`
    console = f"virsh console {name}" if kind == "kvm" else None
    screen = f"virsh domdisplay {name}" if kind == "kvm" else None
    shown: dict[str, Any] = jsonable({**row, "vm": name, "console": console, "screen": screen})
    return shown


def begin(
    connection: Connection,
    replica: ReplicaRow,
    point_id: UUID,
    kind: trials.Kind,
    *,
    actor: str,
    seconds: float,
    conversion: str = "auto",
) -> UUID:
    """Ask for a test VM, or for a boot check.

    Args:
        connection: A transaction.
        replica: Of which.
        point_id: From which point.
        kind: ``test`` or ``check``.
        actor: Who asks.
        seconds: How long it runs at most.
        conversion: As in `StartRequest`.

    Returns:
        Id of its row.

    Raises:
        RefusedError: ``point_in_use``: the point isn't committed.
    """
    found = point.get(connection, point_id)
    if found is None or str(found.state) != "committed" or replica.definition is None:
        raise RefusedError(
            Code.POINT_IN_USE, "only committed boot points can be started", job=replica.job_name, host=replica.host
        )  # fmt: skip
    return trials.create(connection, found, kind, requested_by=actor, seconds=seconds, conversion=conversion).id


def stop(connection: Connection, number: int, *, actor: str) -> UUID:
    """Ask for the end of a test VM.

    Returns:
        Id of its row.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    found = one(
        connection,
        "SELECT t.id, t.state, y.pool FROM test_vm t JOIN replica y ON y.id = t.replica_id WHERE t.number = %s",
        number,
    )
    if found is None:
        hint = "`bootpoint switch list` lists them"
        raise NotFoundError(Code.NO_SUCH_VM, f"there is no test {number}", key="id", value=number, hint=hint)
    if trials.end(connection, found["id"], f"stopped by {actor}"):
        outbox.task(connection, found["pool"], trials.TASK, found["id"])
        item = by_id(connection, found["id"])
        event.record(
            connection, "test_stopped", f"{item['vm']} is to be ended", actor=actor, job=item["job"],
            host=item["host"], point=item["point"],
        )  # fmt: skip
    return UUID(str(found["id"]))


def wait(
    database: Database, uid: UUID, done: Callable[[dict[str, Any]], bool], *, seconds: float, what: str
) -> dict[str, Any]:
    """Wait until a test VM is as wanted, or has ended.

    Args:
        database: Where its row is.
        uid: Its row.
        done: Whether it is as wanted.
        seconds: How long to wait; 0 as long as it takes.
        what: What didn't happen, to be read after "no worker".

    Raises:
        RetryableError: ``no_worker``: neither came about in time.
    """
    deadline = time.monotonic() + seconds if seconds > 0 else None
    while True:
        with database.transaction() as connection:
            item = by_id(connection, uid)
        if done(item) or item["state"] == "ended":
            return item
        if deadline is not None and time.monotonic() > deadline:
            met = f": {item['problem']['message']}" if item["problem"] else ""
            raise error(
                Code.NO_WORKER, f"no worker {what} within {seconds:g} s{met}", job=item["job"], host=item["host"]
            )
        time.sleep(INTERVAL)


def problem_of(item: dict[str, Any]) -> BootpointError | None:
    """Return what ended a test VM before its time; None where nothing did."""
    return from_json(item["problem"]) if item["state"] in ("ending", "ended") and item["problem"] else None


def picture(connection: Connection, replica: ReplicaRow, name: str, point_id: UUID) -> bytes:
    """Return the picture of a point's last boot check, PNG.

    Raises:
        NotFoundError: ``no_such_point``: there is none.
    """
    found = one(connection, "SELECT png FROM boot_picture WHERE point_id = %s", point_id)
    if found is None:
        raise NotFoundError(
            Code.NO_SUCH_POINT, f"there is no picture of {name}: no boot check of it has seen one",
            job=replica.job_name, host=replica.host, key="point", value=name,
            hint="`bootpoint point check J P` makes a boot check",
        )  # fmt: skip
    return bytes(found["png"])


def skipped(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """Return why boot checks of a job that were due have not been made: host, code, message, at, point."""
    found = rows(
        connection,
        "SELECT h.name AS host, b.skipped FROM boot_plan b JOIN replica y ON y.id = b.replica_id"
        " JOIN host h ON h.id = y.host_id WHERE y.job_id = %s AND b.skipped IS NOT NULL ORDER BY h.name",
        job_id,
    )
    return [{"host": row["host"], **row["skipped"]} for row in found]
