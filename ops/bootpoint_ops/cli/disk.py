"""``bootpoint disk``: the disks of a machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from bootpoint_common import diskview
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_ops import read
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import Session, emit, output_option, session, table, waiting
from bootpoint_ops.question import ask_agent


@click.group()
def disk() -> None:
    """Disks of the machines that are protected."""


def fresh_disks(here: Session, agent: str, timeout: float) -> dict[str, Any]:
    """Ask an agent for its disks; of one that is offline, return what it said before (``read_at`` says when).

    Raises:
        RetryableError: ``agent_offline``: it doesn't answer, or is offline and never told.
    """
    with here.env.database.transaction() as connection:
        state = read.agent(connection, agent)["state"]
        known = read.disk_list(connection, agent)
    if state != "online":
        if known is not None:
            return known
        raise error(Code.AGENT_OFFLINE, f"agent {agent} is {state}, and never told its disks", key="agent", value=agent)
    with waiting(f"asking {agent}"):
        ask_agent(here.env, agent, "disks", {}, timeout=timeout)
    with here.env.database.transaction() as connection:
        found = read.disk_list(connection, agent)
    if found is None:
        raise error(Code.AGENT_OFFLINE, f"agent {agent} did not tell its disks", key="agent", value=agent)
    return found


def refresh(here: Session, agent: str | None, timeout: float) -> None:
    """Let the control plane know an agent's disks as they are now; what it knew serves if the agent is away."""
    if agent is None:
        return
    try:
        fresh_disks(here, agent, timeout)
    except BootpointError as problem:
        # The preflight and the agent itself say what matters; an agent that is away isn't the command's failure.
        if problem.code is not Code.AGENT_OFFLINE:
            raise


@disk.command("list")
@click.argument("agent")
@diskview.draw_option
@timeout_option
@output_option
def list_(agent: str, drawn: bool | None, timeout: float) -> None:
    """List the disks of an agent's machine, what is on them, and why some can't be protected."""
    found = fresh_disks(session(), agent, timeout)
    diskview.warn(found)
    show = table(diskview.COLUMNS, diskview.lines(found), empty=f"agent {agent} has no disks")
    if found["items"] and (drawn or (drawn is None and sys.stdout.isatty())):
        show = _drawing(found)
    emit(diskview.public(found), show)


def _drawing(found: dict[str, Any]) -> Callable[[Console], None]:
    # The console that is given is as wide as a table may be in a pipe.
    return lambda out: diskview.paint(out if out.is_terminal else Console(), found)
