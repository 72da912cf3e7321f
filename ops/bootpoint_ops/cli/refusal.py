"""What the command line refused to change is an event as well: who wanted what, from where, and why not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import psycopg
from psycopg_pool import PoolTimeout

from bootpoint_common.errors import BootpointError, RefusedError
from bootpoint_common.store import event
from bootpoint_ops.cli.output import Session

#: Last words of commands that change nothing, wherever they stand: what they refuse concerns nobody else.
_LOOKING = frozenset(
    {"list", "show", "plan", "init", "watch", "log", "status", "report", "history", "points", "page", "selftest"}
)

#: Commands that write an event of their own when they are refused.
_TOLD = frozenset({"run cancel"})

#: The option with which a command only says what it would do.
_DRY = "--dry-run"


def record(here: Session, problem: BootpointError, words: Sequence[str]) -> None:
    """Write an event for a command that was refused, unless it would have changed nothing.

    Args:
        here: The call.
        problem: What it ended with.
        words: The command line behind the program's name; what is secret comes from files and isn't among them.
    """
    opened = here.opened
    if not isinstance(problem, RefusedError) or opened is None:
        return
    if here.command.rpartition(" ")[2] in _LOOKING or here.command in _TOLD or _DRY in words:
        return
    details = {"command": shlex.join(["bootpoint", *words]), "key": problem.key, "hint": problem.hint}
    try:
        with opened.database.transaction() as connection:
            event.record(
                connection, "command_refused", problem.message, actor=opened.actor, job=problem.job,
                host=problem.host, code=str(problem.code), details=details,
            )  # fmt: skip
    except (psycopg.Error, PoolTimeout):  # the refusal stands all the same, and is what the user has to hear
        return
