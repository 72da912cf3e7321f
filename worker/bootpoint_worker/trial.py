"""The actor that starts test VMs, lets checks be looked at, and ends both. Its steps may be cut off anywhere.

What is wanted stands in the row before the host is touched: a worker that dies leaves `starting`, `running` or
`ending`, and whoever gets the claim next does the same again, which a driver's verbs bear.
"""

from __future__ import annotations

import contextlib
import logging
from uuid import UUID

from bootpoint_common.errors import BootpointError, Fenced, NotFoundError
from bootpoint_common.store import event
from bootpoint_common.store import trial as trials
from bootpoint_common.store.claim import Claim, claim
from bootpoint_common.store.database import Connection, one, present, run

from . import bootcheck
from .context import Context
from .preflight import require_login
from .subject import Subject, read
from .targets.base import StartRequest, Target

_log = logging.getLogger(__name__)

#: Seconds after which a start that can't be made is given up: the host is away, or somebody holds the replica's VMs.
START_SECONDS = 600.0

#: Seconds that a start may take without a word, above the longest conversion (`v2v.V2V_SECONDS`). Whoever took it over
#: would end the conversion and begin it anew, and so would the next one.
PATIENCE = 1440.0


def trial(context: Context, trial_id: UUID) -> None:
    """Take a test VM as far as it goes now."""
    with context.database.transaction() as connection:
        found = trials.get(connection, trial_id)
    if found is None or found.state in ("waiting", "ended"):
        return
    held = claim(context.database, "test_vm", trial_id, renewing=context.renewing, patience=PATIENCE)
    if held is None:
        return
    with held:
        try:
            while _step(context, held, trial_id):
                held.progress()
        except Fenced:
            _log.info("step ended: somebody else goes on", extra={"trial": str(trial_id)})


def _step(context: Context, held: Claim, trial_id: UUID) -> bool:
    """Do one step; returns whether the next one can be done at once."""
    subject = read(context.database, held, trial_id)
    if subject is None:
        return False
    try:
        if subject.trial.state == "starting":
            return _start(context, subject)
        if subject.trial.state == "running":
            return subject.trial.kind == "check" and bootcheck.look(context, subject)
        _end(context, subject)
    except BootpointError as problem:
        return _failed(context, subject, problem)
    return False


def _start(context: Context, subject: Subject) -> bool:
    """Start the VM; returns whether it is to be ended already."""
    found = subject.trial
    require_login(subject.host)
    with context.sessions.use(subject.host) as target:
        if found.kind == "check":
            bootcheck.admit(context, target, subject)
        with context.database.transaction() as connection:
            subject.check(connection)
            if not trials.touch(connection, found):
                return True
        request = StartRequest(point_id=found.point_id, test_id=found.test_id, conversion=found.conversion)
        machine = target.start(subject.replica, request)
        _take_back(context, target, subject)
    with context.database.transaction() as connection:
        subject.check(connection)
        if not trials.started(connection, found):
            return True
        run(connection, "UPDATE replica SET standby = 'test' WHERE id = %s AND standby = 'off'", found.replica_id)
        if found.kind == "check":
            trials.again(connection, found, delay=bootcheck.LOOK_SECONDS)
        else:
            text = f"test {found.number}: {machine.name} started from {subject.point.name}"
            event.of_point(connection, subject.point, "test_started", text, actor=found.requested_by)
    return False


def _take_back(context: Context, target: Target, subject: Subject) -> None:
    """End what was to be ended while it was being started: a frozen worker may start it after another has ended it."""
    with context.database.transaction() as connection:
        now = trials.get(connection, subject.trial.id)
    if now is None or now.state in ("ending", "ended"):
        target.stop(subject.replica, subject.trial.test_id)


def _end(context: Context, subject: Subject) -> None:
    """End the VM, if the host may have something of it."""
    found = subject.trial
    if found.touched:
        with contextlib.suppress(NotFoundError), context.sessions.use(subject.host) as target:
            target.stop(subject.replica, found.test_id)
    with context.database.transaction() as connection:
        subject.check(connection)
        if trials.ended(connection, found):
            _note_standby(connection, found.replica_id)
            _record_end(connection, subject)


def _record_end(connection: Connection, subject: Subject) -> None:
    found, name = subject.trial, subject.point.name
    code = None if found.problem is None else str(found.problem["code"])
    if found.kind == "test":
        text = f"test {found.number} of {name} ended: {found.ending}"
        event.of_point(connection, subject.point, "test_ended", text, actor="worker", code=code)
    elif found.boot is None and not (found.automatic and found.problem):
        # A verdict was told when it was found, and so was why one that was due is skipped.
        text = f"the boot check of {name} ended without a verdict: {found.ending}"
        event.of_point(connection, subject.point, "boot_check_ended", text, actor="worker", code=code)


def _note_standby(connection: Connection, replica_id: UUID) -> None:
    query = "SELECT 1 FROM test_vm WHERE replica_id = %s AND touched AND state <> 'ended'"
    if one(connection, query, replica_id) is None:
        run(connection, "UPDATE replica SET standby = 'off' WHERE id = %s AND standby = 'test'", replica_id)


def _failed(context: Context, subject: Subject, problem: BootpointError) -> bool:
    """Decide what becomes of a VM whose step failed: tried again by the reaper (False), or ended (True)."""
    found = subject.trial
    _log.warning("step failed", extra={"trial": found.number, "state": found.state, "cause": problem.message})
    with context.database.transaction() as connection:
        took = None if found.placed_at is None else (present(connection) - found.placed_at).total_seconds()
        late = took is not None and took > START_SECONDS
        subject.check(connection)
        if found.state != "starting" or (problem.retryable and not late):
            # An end that can't be made is tried for ever: the VM may run. A look that fails is made again until the
            # check's time is over.
            trials.note(connection, found, problem)
            return False
        problem.job, problem.host = subject.point.job, subject.point.host
        if found.automatic:
            bootcheck.skip(connection, found.replica_id, subject.point, problem)
        trials.end(connection, found.id, f"it could not be started: {problem.message}", problem=problem)
    return True
