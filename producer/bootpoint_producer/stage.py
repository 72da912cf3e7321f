"""The scripts of one run, and the promise that what the first one paused goes on.

::

    before_snapshot ──► freeze, snapshot, thaw ──► after_snapshot ──► … ──► after_point
    └─ owed from its first moment …                … to its end ─┘

No script runs while a file system is frozen: the first has ended before the freeze, the second begins after the thaw.
Once `before_snapshot` has begun, `after_snapshot` runs, whatever comes between: a failure of either, of the snapshot,
the end of the run. It is written down beforehand, so that an agent that died runs it at its next start, once it has
ended what may still be running of the first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Script, Scripts, scripts_of

from .script import Begun, Outcome, Stage, end_orphan, run_script
from .state import replace_file

_log = logging.getLogger(__name__)


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """A script after the snapshot that has to run, because the one before it has begun.

    Attributes:
        run: The run's id.
        number: Its number.
        job: The job's name.
        pool: Where its result is reported.
        scripts: The job's scripts, as in the job file.
        before: The script before the snapshot, as soon as it runs.
    """

    run: UUID
    number: int
    job: str
    pool: str
    scripts: dict[str, Any]
    before: Begun | None = None


class OwedScripts:
    """What is owed, one file for each run; survives the agent.

    Args:
        directory: The agent's state.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "owed"

    def keep(self, owed: Owed) -> None:
        """Write it down, for certain."""
        self._directory.mkdir(exist_ok=True, mode=0o700)
        replace_file(self._file(owed.run), msgspec.json.encode(owed).decode())

    def drop(self, run: UUID) -> None:
        """Forget it: the script has run."""
        self._file(run).unlink(missing_ok=True)

    def all(self) -> list[Owed]:
        """Return what is owed, oldest run first."""
        found = []
        for file in sorted(self._directory.glob("*.json")):
            try:
                found.append(msgspec.json.decode(file.read_bytes(), type=Owed))
            except msgspec.MsgspecError as problem:
                _log.warning("no script is owed by this file", extra={"file": str(file), "cause": str(problem)})
        return found

    def _file(self, run: UUID) -> Path:
        return self._directory / f"{run}.json"


def pay(owed: Owed, scripts: OwedScripts) -> message.ScriptResult | None:
    """Run what an agent that died still owes; return how it ended, None where the job has no such script."""
    if owed.before is not None:
        # It would pause once more what now goes on.
        end_orphan(owed.before)
    script = scripts_of(owed.scripts).after_snapshot
    result = None
    if script is not None:
        _log.warning("script of a run that was cut off", extra={"run": owed.number, "stage": Stage.AFTER_SNAPSHOT})
        told = {"job": owed.job, "run": owed.number, "point": None, "consistency": None}
        result = _result(run_script(script, Stage.AFTER_SNAPSHOT, told))
    scripts.drop(owed.run)
    return result


class Stages:
    """Runs the scripts of a run when their time has come; used by the run's thread.

    Args:
        order: The run.
        owed: Where the script after the snapshot is written down.
        over: Set when the run is to end.
        stopping: Set when the agent is to end.

    Attributes:
        results: How those that ran ended.
    """

    def __init__(
        self, order: message.StartRun, owed: OwedScripts, *, over: threading.Event, stopping: threading.Event
    ) -> None:
        self.results: list[message.ScriptResult] = []
        self._order = order
        self._scripts = Scripts()
        self._owed = owed
        self._over = over
        self._stopping = stopping
        self._owing = False
        self._told = 0

    # --- what the control plane knows of it

    @property
    def untold(self) -> bool:
        """Whether the control plane may not know a result yet."""
        return self._told < len(self.results)

    def heard(self, count: int) -> None:
        """Note that the control plane knows the first ``count`` results."""
        self._told = max(self._told, count)

    # --- the stages

    def before_snapshot(self) -> None:
        """Run the script before the snapshot; the end of the run ends it, and is no failure of it.

        Raises:
            BootpointError: ``script_failed``, where that stops the run; ``spec_invalid``: the scripts can't be read.
        """
        self._scripts = scripts_of(self._order.scripts)
        script = self._scripts.before_snapshot
        if script is None:
            return
        self._run(script, Stage.BEFORE_SNAPSHOT, stop=self._over, on_start=self._owe())

    def _owe(self) -> Callable[[Begun], None] | None:
        """Write down that the script after the snapshot is owed; return what notes which one is to end before it."""
        if self._scripts.after_snapshot is None:
            return None
        order = self._order
        owed = Owed(run=order.run, number=order.number, job=order.job, pool=order.pool, scripts=order.scripts)
        self._owed.keep(owed)
        self._owing = True
        return lambda begun: self._owed.keep(msgspec.structs.replace(owed, before=begun))

    def after_snapshot(self, reached: str, *, let_go: Callable[[], None]) -> None:
        """Run the script after the snapshot to its end, even if the run ends meanwhile: something may be paused.

        Args:
            reached: The snapshot's consistency.
            let_go: Called when the run ends while the script runs: the snapshot is of no use any more.

        Raises:
            BootpointError: ``script_failed``, where that stops the run.
        """
        if self._scripts.after_snapshot is None:
            return
        self._owing = False
        try:
            self._run(self._scripts.after_snapshot, Stage.AFTER_SNAPSHOT, reached, stop=self._over, on_stop=let_go)
        finally:
            self._owed.drop(self._order.run)

    def resume(self) -> None:
        """Run the script after the snapshot where it is owed and there was no snapshot; its failure is only noted."""
        if not self._owing or self._scripts.after_snapshot is None:
            return
        self._owing = False
        try:
            self._run(self._scripts.after_snapshot, Stage.AFTER_SNAPSHOT)
        except BootpointError as problem:
            _log.warning("script failed", extra={"run": self._order.number, "cause": problem.message})
        self._owed.drop(self._order.run)

    def after_point(self, reached: str, point: str) -> None:
        """Run the script after the boot point.

        Raises:
            BootpointError: ``script_failed``, where the run counts as failed then, or ``agent_restarted``.
        """
        script = self._scripts.after_point
        if script is None:
            return
        # Not the end of the run, which may be known as ended already: nothing but the agent's own end.
        self._run(script, Stage.AFTER_POINT, reached, point, stop=self._stopping)
        if self._stopping.is_set() and script.abort:
            raise error(Code.AGENT_RESTARTED, f"the agent stopped while {script.run[0]} ran", key="scripts.after_point")

    def _run(
        self,
        script: Script,
        stage: Stage,
        reached: str | None = None,
        point: str | None = None,
        *,
        stop: threading.Event | None = None,
        on_stop: Callable[[], None] | None = None,
        on_start: Callable[[Begun], None] | None = None,
    ) -> None:
        told = {"job": self._order.job, "run": self._order.number, "point": point, "consistency": reached}
        outcome = run_script(script, stage, told, stop=stop, on_stop=on_stop, on_start=on_start)
        self.results.append(_result(outcome))
        failure = outcome.failure(script)
        if failure is not None and script.abort and not outcome.stopped:
            raise failure


def _result(outcome: Outcome) -> message.ScriptResult:
    return message.ScriptResult(
        stage=str(outcome.stage),
        exit_code=outcome.exit_code,
        duration_seconds=outcome.duration_seconds,
        output=outcome.output,
    )
