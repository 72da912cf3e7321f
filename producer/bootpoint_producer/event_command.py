"""`bootpoint-agent event shutdown|restart`: says to the agent that runs what happens to the machine, and waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bootpoint_common.systemd import Manager

from .doorbell import ring
from .occasion import SHUTDOWN_SECONDS, Kind
from .probe import line_of

#: Seconds that a restart waits for somebody to take it: after a power cut the broker starts at the same time.
RESTART_SECONDS = 600.0

#: Seconds that systemd gets beyond the deadline, for the command to say what happened.
NOTIFY_SECONDS = 5.0

#: Which start of the machine the last `--once` was of; in the agent's directory.
TOLD = "told-restart"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def happen(
    directory: Path, kind: Kind, *, origin: str, patience: float | None, once: bool, as_json: bool, manager: Manager
) -> int:
    """Say an event to the agent of a directory, print what happens, and return the exit code.

    Args:
        directory: The agent's.
        kind: What happens.
        origin: Who says so.
        patience: Seconds to wait for somebody to take it; None for what suits the event.
        once: Whether to say nothing where this start of the machine has been told.
        as_json: Whether to print JSON.
        manager: systemd, where it waits for this command.

    Raises:
        BootpointError: ``agent_offline``, ``no_worker``; or why the event was refused.
    """
    boot, told = line_of(_BOOT_ID) or "", directory / TOLD
    if once and line_of(told) == boot:
        _print(as_json, kind, [], "this start of the machine has been told already")
        return 0
    if patience is None:
        patience = SHUTDOWN_SECONDS if kind is Kind.SHUTDOWN else RESTART_SECONDS
    items: list[dict[str, Any]] = []
    for answer in ring(directory, {"event": str(kind), "origin": origin, "patience": patience}):
        if "taken" in answer:
            # This stop may take as long as the job's deadline allows, whatever the unit says.
            extended = int((answer["seconds"] + NOTIFY_SECONDS) * 1_000_000)
            manager.tell(f"EXTEND_TIMEOUT_USEC={extended}")
        elif answer.get("done"):
            items = answer["items"]
        elif not as_json:
            click.echo(_line(kind, answer))
    if once:
        told.write_text(f"{boot}\n")
    if kind is Kind.RESTART and not as_json:
        for item in items:
            click.echo(_line(kind, item))
    _print(as_json, kind, items, None if items else f"no job of this machine wants a run at its {kind}")
    # Nobody waits for the runs of a restart: what is in their way is the history's.
    return int(kind is Kind.SHUTDOWN and any(item["state"] == "failed" for item in items))


def _print(as_json: bool, kind: Kind, items: list[dict[str, Any]], text: str | None) -> None:
    if as_json:
        click.echo(json.dumps({"event": str(kind), "items": items}, ensure_ascii=False))
    elif text is not None:
        click.echo(text)


def _line(kind: Kind, item: dict[str, Any]) -> str:
    run = item["job"] if item["run"] is None else f"{item['job']}: run {item['run']}"
    if item["problem"] is not None:
        return f"{run}: {item['problem']['message']} ({item['problem']['code']})"
    if kind is Kind.RESTART:
        return f"{run} begins" if item["run"] is not None else f"{run}: its run waits"
    if item["state"] == "committed":
        return f"{run}: its boot point stands"
    return f"{run}: everything is with the broker; the machine may go"
