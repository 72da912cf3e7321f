"""Following a run: progress bars on a terminal, plain lines elsewhere, the run as JSON at its end."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from bootpoint_common.errors import Code, RefusedError, error
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import read
from bootpoint_ops.cancel import cancel
from bootpoint_ops.cli.output import CANCELLED, Session, complain, console, emit
from bootpoint_ops.dashboard import done_bytes

#: Seconds between two looks at the database.
INTERVAL = 0.5

#: Seconds between two plain lines about the same disk.
LINE_SECONDS = 10.0

#: States of a run in which it isn't over.
_UNDER_WAY = ("waiting", "running")


def watch_run(here: Session, number: int) -> None:
    """Follow a run to its end; on a terminal Ctrl-C asks whether to cancel it or to leave it.

    Raises:
        NotFoundError: ``no_such_run``.
        click.exceptions.Exit: It failed (1) or was cancelled (130), or Ctrl-C ended the watching (130).
    """
    while True:
        try:
            return _watch(here, number)
        except KeyboardInterrupt:
            if not _asks_to_cancel(here, number):
                _leave(here, number)
        try:
            cancel(here.env, number, origin=click.get_current_context().command_path.removeprefix("bootpoint "))
        except RefusedError as too_late:
            # How it ends is told all the same.
            complain(too_late, as_json=False)


def _asks_to_cancel(here: Session, number: int) -> bool:
    """Ask on a terminal; another Ctrl-C leaves the run, as Enter does."""
    if here.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"\nrun {number} goes on: cancel it (c), or leave it (Enter)"
    try:
        answer = click.prompt(question, default="", show_default=False, err=True)
    except click.Abort:
        click.echo(err=True)
        return False
    return str(answer).strip().lower() in ("c", "cancel")


def _leave(here: Session, number: int) -> NoReturn:
    text = f"run {number} goes on"
    hint = f"`bootpoint run watch {number}` follows it, `bootpoint run cancel {number}` ends it"
    if here.json:
        complain(error(Code.CANCELLED, text, hint=hint, key="run", value=number), as_json=True)
    else:
        click.echo(f"{text}: {hint}", err=True)
    raise click.exceptions.Exit(CANCELLED)


def _watch(here: Session, number: int) -> None:
    if here.json:
        item = _follow(here, number, lambda _item, _line: None)
    elif console().is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
        ) as bars:
            item = _follow(here, number, _Bars(bars).show)
    else:
        item = _follow(here, number, _Lines().show)
    emit(item, lambda out: out.print(_end(item), markup=False))
    if item["state"] == "failed":
        problem = error(
            _code(item["reason"]),
            item["message"] or "the run failed",
            hint=item["hint"],
            job=item["job"],
            value=number,
            key="run",
        )
        complain(problem, as_json=here.json)
        raise click.exceptions.Exit(1)
    if item["state"] == "cancelled":
        raise click.exceptions.Exit(CANCELLED)


def _follow(here: Session, number: int, show: Any) -> dict[str, Any]:
    while True:
        with here.env.database.transaction() as connection:
            item = read.run(connection, number)
            line = read.run_line(connection, number)
        show(item, line)
        if item["state"] not in _UNDER_WAY:
            return item
        time.sleep(INTERVAL)


def _code(reason: str | None) -> Code:
    return Code(reason) if reason in set(Code) else Code.STALLED


def _end(item: dict[str, Any]) -> str:
    took = format_duration(seconds_between(item["started_at"], item["ended_at"]))
    points = ", ".join(
        f"{target['point']} on {target['host']}" for target in item["targets"] if target["state"] == "committed"
    )
    disks = [disk for target in item["targets"] for disk in target["disks"]]
    sizes = ", ".join(
        f"{word} {format_size(sum(disk[key] or 0 for disk in disks))}"
        for word, key in (("read", "scanned_bytes"), ("changed", "changed_bytes"), ("sent", "wire_bytes"))
    )
    made = f": {points}; {sizes}" if item["state"] == "succeeded" else ""
    return f"run {item['id']} of {item['job']} {item['state']} after {took}{made}"


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two instants as JSON has them; until now where the end is open."""
    if start is None:
        return None
    last = datetime.now(UTC) if end is None else datetime.fromisoformat(end)
    return max(0.0, (last - datetime.fromisoformat(start)).total_seconds())


class _Bars:
    """A bar for each disk, full when all that is there was scanned."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._head = bars.add_task("", total=None)

    def show(self, item: dict[str, Any], line: str | None) -> None:
        for target in item["targets"]:
            for disk in target["disks"]:
                key = (target["host"], disk["slot"])
                if key not in self._tasks:
                    self._tasks[key] = self._bars.add_task(
                        f"{disk['slot']} → {target['host']}", total=disk["size_bytes"]
                    )
                self._bars.update(self._tasks[key], completed=done_bytes(target["state"], disk))
        alone = item["state"] in _UNDER_WAY and not self._tasks
        self._bars.update(self._head, description=_head(item, line), visible=alone)


class _Lines:
    """A line for each change of state, and now and then one for each disk."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._next = time.monotonic() + LINE_SECONDS

    def show(self, item: dict[str, Any], line: str | None) -> None:
        if item["state"] in _UNDER_WAY:
            self._say("run", _head(item, line))
        for target in item["targets"]:
            if target["state"] is not None:
                self._say(f"target {target['host']}", f"{target['point']} on {target['host']}: {target['state']}")
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_SECONDS
        for target in item["targets"]:
            for disk in target["disks"]:
                text = (
                    f"{disk['slot']} on {target['host']}:"
                    f" read {format_size(disk['scanned_bytes'])} of {format_size(disk['size_bytes'])},"
                    f" changed {format_size(disk['changed_bytes'])}, written {format_size(disk['applied_bytes'])}"
                )
                self._say(f"{target['host']} {disk['slot']}", text)

    def _say(self, key: str, text: str) -> None:
        if self._said.get(key) != text:
            self._said[key] = text
            click.echo(text)


def _head(item: dict[str, Any], line: str | None) -> str:
    return f"run {item['id']} of {item['job']}: {item['state']}" + (f", {line}" if line else "")
