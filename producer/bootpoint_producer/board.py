"""What has become of runs, for those who wait for it: an event's caller, while the machine goes down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from bootpoint_common import message

T = TypeVar("T")

#: Entries that are kept of runs, and of answered events; an agent has a few runs in hand.
_KEPT = 200


class Step(StrEnum):
    """How far a run is."""

    BEGUN = "begun"
    """The agent has it in hand."""
    SENT = "sent"
    """The broker holds everything: the machine isn't needed any more."""
    COMMITTED = "committed"
    """Its boot point stands."""
    FAILED = "failed"
    """It is over without one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one run.

    Attributes:
        step: How far it is.
        job: Its job; None where it ended before this agent had it.
        problem: Why it failed.
    """

    step: Step
    job: str | None = None
    problem: message.Problem | None = None


class RunBoard:
    """Where runs and answers to events are noted and waited for; thread-safe."""

    def __init__(self) -> None:
        # Its lock may be taken again by who holds it: a look, which `wait` makes under it, uses the methods here.
        self._changed = threading.Condition()
        self._runs: dict[UUID, Standing] = {}
        self._answers: dict[UUID, message.EventTaken] = {}

    def note(self, run: UUID, step: Step, *, job: str | None = None, problem: message.Problem | None = None) -> None:
        """Note how far a run is."""
        with self._changed:
            known = self._runs.pop(run, None)
            self._runs[run] = Standing(step, job or (known.job if known is not None else None), problem)
            while len(self._runs) > _KEPT:
                del self._runs[next(iter(self._runs))]
            self._changed.notify_all()

    def answer(self, taken: message.EventTaken) -> None:
        """Note what the control plane says of an event."""
        with self._changed:
            self._answers[taken.id] = taken
            while len(self._answers) > _KEPT:
                del self._answers[next(iter(self._answers))]
            self._changed.notify_all()

    def run(self, run: UUID) -> Standing | None:
        """Return what is known of a run."""
        with self._changed:
            return self._runs.get(run)

    def of_job(self, job: str, known: set[UUID]) -> UUID | None:
        """Return the newest run of a job that wasn't known before; None where there is none yet."""
        with self._changed:
            fresh = [run for run, standing in self._runs.items() if standing.job == job and run not in known]
        return fresh[-1] if fresh else None

    def known(self) -> set[UUID]:
        """Return all runs that something is known of."""
        with self._changed:
            return set(self._runs)

    def answered(self, event: UUID) -> message.EventTaken | None:
        """Return what the control plane said of an event; None as long as it said nothing."""
        with self._changed:
            return self._answers.get(event)

    def wait(self, look: Callable[[], T | None], seconds: float) -> T | None:
        """Wait until a look finds something, and return it; None when the time is over."""
        until = time.monotonic() + seconds
        with self._changed:
            while (found := look()) is None:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return look()
            return found
