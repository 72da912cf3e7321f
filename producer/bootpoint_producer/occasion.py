"""A shutdown or a restart of this machine: said to the control plane, and waited for until the machine may go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.identity import new_id

from .board import RunBoard, Standing, Step
from .link import Link

_log = logging.getLogger(__name__)

#: Seconds until an event that nobody took is said again.
AGAIN_SECONDS = 2.0

#: Seconds that a shutdown waits for somebody to take the event: without a control plane the machine goes down as ever.
SHUTDOWN_SECONDS = 10.0

#: Seconds beyond a run's deadline: it says itself why it wasn't done, and that is worth hearing.
GRACE_SECONDS = 1.0

#: The word of a shutdown that nobody took, in the agent's directory: at its next start the machine says so.
UNHEARD = "unheard-shutdown"

Say = Callable[[dict[str, Any]], None]


class Kind(StrEnum):
    """What happens to the machine."""

    SHUTDOWN = "shutdown"
    RESTART = "restart"


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What a command on this machine asks: to say what happens, and to wait so many seconds for somebody to take it."""

    event: Kind
    origin: str
    patience: float


@dataclass(frozen=True, slots=True)
class Occasion:
    """What an agent says events with, and where it hears what becomes of them.

    Attributes:
        link: Messages to the control plane.
        board: Where answers and runs are noted.
        directory: The agent's.
        broker_stays: Whether the broker is still there when this machine is off; else only a committed point is safe.
    """

    link: Link
    board: RunBoard
    directory: Path
    broker_stays: bool = True

    def answer(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Do what a command on this machine asks; see `happen`.

        Raises:
            UsageError: ``spec_invalid``: it makes no sense.
            BootpointError: As `happen`.
        """
        try:
            asked = msgspec.convert(request, _Asked)
        except msgspec.ValidationError as wrong:
            raise error(Code.SPEC_INVALID, f"the agent was asked nothing that it understands: {wrong}") from wrong
        return {"items": self.happen(asked.event, asked.origin, say, patience=asked.patience)}

    def happen(self, kind: Kind, origin: str, say: Say, *, patience: float) -> list[dict[str, Any]]:
        """Say an event, and at a shutdown wait until its runs need this machine no more.

        Args:
            kind: What happens.
            origin: Who told, in a few words.
            say: Told each thing as it comes, as JSON.
            patience: Seconds to wait for somebody to take it.

        Returns:
            For each job that it concerns what has become of it: ``job``, ``run``, ``state``, ``problem``.

        Raises:
            BootpointError: ``no_worker``: nobody took it; or why it was refused.
        """
        known = self.board.known()
        unheard = self.directory / UNHEARD
        event = message.Event(
            id=new_id(), kind=str(kind), origin=origin, unheard=kind is Kind.RESTART and unheard.exists()
        )
        if kind is Kind.SHUTDOWN:
            _touch(unheard)
        taken = self._say(event, patience)
        since = time.monotonic()
        unheard.unlink(missing_ok=True)
        if taken.problem is not None:
            raise _error(taken.problem)
        say({"taken": str(kind), "repeated": taken.repeated, "seconds": _longest(taken)})
        if kind is Kind.RESTART:
            return [_result(run, None) for run in taken.runs]
        return [self._wait(run, since, known, say) for run in taken.runs]

    def _say(self, event: message.Event, patience: float) -> message.EventTaken:
        """Say an event again and again until it is taken."""
        until = time.monotonic() + patience
        while (left := until - time.monotonic()) > 0:
            self.link.send(event)
            taken = self.board.wait(lambda: self.board.answered(event.id), min(AGAIN_SECONDS, left))
            if taken is not None:
                return taken
        raise error(
            Code.NO_WORKER,
            f"nobody took the {event.kind} within {patience:.0f} s",
            hint="check the way to the broker (`bootpoint-agent status`), and that a worker serves this agent's pool",
        )

    def _wait(self, run: message.EventRun, since: float, known: set[UUID], say: Say) -> dict[str, Any]:
        """Wait until a run is done, or its time is over; the seconds that it has count from ``since``."""
        seconds = (run.seconds or 0.0) - (time.monotonic() - since) + GRACE_SECONDS
        unsafe = {Step.BEGUN} if self.broker_stays else {Step.BEGUN, Step.SENT}

        def over() -> Standing | None:
            uid = run.run or self.board.of_job(run.job, known)
            standing = None if uid is None else self.board.run(uid)
            return standing if standing is not None and standing.step not in unsafe else None

        standing = None if run.problem is not None else self.board.wait(over, seconds)
        result = _result(run, standing)
        say(result)
        return result


def _touch(file: Path) -> None:
    try:
        file.touch()
    except OSError as failure:
        # A full disk costs the word of a shutdown that nobody hears, not the shutdown's own boot point.
        _log.warning("the shutdown can't be written down", extra={"file": str(file), "cause": str(failure)})


def _longest(taken: message.EventTaken) -> float:
    """Return the seconds until the last run has to be done; 0 where none is waited for."""
    return max((run.seconds or 0.0 for run in taken.runs if run.problem is None), default=0.0)


def _result(run: message.EventRun, standing: Standing | None) -> dict[str, Any]:
    """Return what has become of one job's run, as JSON; ``waiting`` where it isn't known yet."""
    state = "waiting" if standing is None else str(standing.step)
    problem = run.problem or (standing.problem if standing is not None else None)
    if problem is not None:
        state = str(Step.FAILED)
    elif standing is None and run.seconds is not None:
        state = str(Step.FAILED)
        problem = message.Problem(code=str(Code.DEADLINE), message="not everything was sent before the deadline")
    shown = None if problem is None else {"code": problem.code, "message": problem.message}
    return {"job": run.job, "run": run.number, "state": state, "problem": shown}


def _error(problem: message.Problem) -> BootpointError:
    code = Code(problem.code) if problem.code in set(Code) else Code.BUSY
    return error(code, problem.message, key=problem.key, value=problem.value, hint=problem.hint)
