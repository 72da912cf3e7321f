"""What a command says: JSON or tables on stdout, errors on stderr, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from bootpoint_common.config import Config
from bootpoint_common.diskview.text import printable
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store.shown import jsonable
from bootpoint_ops.environment import Environment, open_environment

F = TypeVar("F", bound=Callable[..., Any])

#: Exit code of what somebody cancelled, as shells know it from Ctrl-C.
CANCELLED = 130

#: Width of tables that don't go to a terminal: as wide as they need to be, for nobody scrolls a pipe.
_PIPE_WIDTH = 1000

#: Columns that hold what other commands are given: shown in one piece if they are no wider than this.
_NAMES, _NAME_WIDTH = ("NAME", "JOB", "RUN"), 32

#: Colours of states on a terminal.
_STATES = {
    **dict.fromkeys(("ok", "succeeded", "committed", "online", "reachable", "verified", "boots"), "green"),
    **dict.fromkeys(("failing", "failed", "refused", "broken", "damaged", "revoked", "does_not_boot"), "red"),
    **dict.fromkeys(
        ("late", "never", "drift", "waiting", "running", "offline", "unreachable", "pending", "detached"), "yellow"
    ),
}


@dataclass
class Session:
    """One call of the command line.

    Attributes:
        output: ``table`` or ``json``.
        command: The words that name the command, such as ``job delete``.
    """

    output: str = "table"
    command: str = ""
    _opened: list[Environment] = field(default_factory=list)

    @property
    def json(self) -> bool:
        """Whether JSON was asked for."""
        return self.output == "json"

    @property
    def env(self) -> Environment:
        """The installation, opened at the first use."""
        if not self._opened:
            self._opened.append(open_environment(Config.from_environment(), origin=self.command))
        return self._opened[0]

    @property
    def opened(self) -> Environment | None:
        """The installation, if anything has asked for it yet."""
        return self._opened[0] if self._opened else None

    def close(self) -> None:
        """Close what was opened."""
        for env in self._opened:
            env.close()
        self._opened.clear()


def session() -> Session:
    """Return the session of the call at hand."""
    found = click.get_current_context().find_root().obj
    if not isinstance(found, Session):
        raise TypeError(found)
    return found


def _take_output(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    found = context.find_root().obj
    if not isinstance(found, Session):
        return
    found.command = context.command_path.partition(" ")[2]
    if value is not None:
        found.output = value


def output_option(command: F) -> F:
    """Add ``-o table|json`` to a command."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        expose_value=False,
        callback=_take_output,
        is_eager=True,
        help="How to print: a table for people, or JSON.",
    )(command)


def console() -> Console:
    """Return the terminal, or a plain writer where stdout is none."""
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal)


def emit(value: Any, show: Callable[[Console], None]) -> None:
    """Print a result: the value as JSON, or what ``show`` writes."""
    if session().json:
        # What json doesn't know are instants and ids; most of what there is, is JSON already.
        click.echo(json.dumps(value, ensure_ascii=False, default=jsonable))
    else:
        show(console())


def say(text: str, value: dict[str, Any]) -> None:
    """Print one sentence, or its JSON."""
    emit(value, lambda out: out.print(text, markup=False))


def table(columns: Sequence[str], lines: Sequence[Sequence[object]], *, empty: str) -> Callable[[Console], None]:
    """Return what prints a table; names that start with ``>`` are of columns set flush right."""

    def show(out: Console) -> None:
        if not lines:
            out.print(empty, markup=False)
            return
        if not out.is_terminal:
            _print_plain(columns, lines)
            return
        drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for number, name in enumerate(columns):
            title = name.lstrip(">")
            whole = title in _NAMES and max(len(str(line[number])) for line in lines) <= _NAME_WIDTH
            justify: JustifyMethod = "right" if name.startswith(">") else "left"
            drawn.add_column(title, justify=justify, overflow="fold", no_wrap=whole)
        for line in lines:
            drawn.add_row(*(_cell(value) for value in line))
        out.print(drawn)

    return show


def _print_plain(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Print a table that nobody wraps or colours, as wide as it needs to be.

    Rich takes a millisecond for each line, and there may be ten thousand.
    """
    titles = [name.lstrip(">") for name in columns]
    cells = [[_text(value).split("\n") for value in line] for line in lines]
    printed = []
    widths = [
        max(cell_len(title), *(cell_len(part) for line in cells for part in line[number]))
        for number, title in enumerate(titles)
    ]
    for line in ([[title] for title in titles], *cells):
        for parts in zip_longest(*line, fillvalue=""):
            padded = (
                " " * (width - cell_len(part)) + part if name.startswith(">") else part + " " * (width - cell_len(part))
                for name, width, part in zip(columns, widths, parts, strict=True)
            )
            printed.append("  ".join(padded).rstrip())
    click.echo("\n".join(printed))


def fields(pairs: Sequence[tuple[str, object]]) -> Callable[[Console], None]:
    """Return what prints names and values, one a line."""

    def show(out: Console) -> None:
        drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        drawn.add_column(style="bold", no_wrap=True)
        drawn.add_column(overflow="fold")
        for name, value in pairs:
            drawn.add_row(name, _cell(value))
        _draw(out, drawn)

    return show


def _draw(out: Console, drawn: Table) -> None:
    if out.is_terminal:
        out.print(drawn)
        return
    with out.capture() as text:  # rich fills every line up to the table's width
        out.print(drawn)
    for line in text.get().splitlines():
        click.echo(line.rstrip())


def _cell(value: object) -> Text:
    text = _text(value)
    return Text(text, style=_STATES.get(text, ""))


def _text(value: object) -> str:
    return "-" if value is None or value == "" else plain(value)


def plain(value: object) -> str:
    """Return lines without anything that a terminal would obey: what scripts and hosts wrote is in many a message."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(printable(line.expandtabs()) for line in lines)


def complain(problem: BootpointError, *, as_json: bool) -> None:
    """Print an error on stderr."""
    if as_json:
        click.echo(json.dumps(jsonable(problem.as_json()), ensure_ascii=False), err=True)
        return
    where = "".join(f" [{name} {value}]" for name, value in (("job", problem.job), ("host", problem.host)) if value)
    lines = [f"error: {problem.message} ({problem.code}){where}"]
    if problem.key:
        lines.append(f"  {problem.key}" + ("" if problem.value is None else f" = {problem.value}"))
    if problem.hint:
        lines.append(f"  {problem.hint}")
    click.echo(plain("\n".join(lines)), err=True)


def usage(problem: click.ClickException) -> BootpointError:
    """Return click's complaint about the words of a call as an error of ours."""
    context = getattr(problem, "ctx", None)
    path = context.command_path if context is not None else "bootpoint"
    return error(Code.SPEC_INVALID, problem.format_message(), hint=f"`{path} --help` explains the command")


def confirm(name: str, what: str, *, yes: bool) -> None:
    """Let the job's name be typed before something is destroyed or a live copy is started.

    Raises:
        UsageError: ``spec_invalid``: another name was typed, or nobody can be asked.
    """
    if yes:
        return
    hint = "type the name, or say --yes"
    if not sys.stdin.isatty():
        raise error(Code.SPEC_INVALID, f"{what}: nobody confirmed it", key="--yes", hint="say --yes")
    if click.prompt(f"{what}\nType {name} to go on", default="", show_default=False, err=True) != name:
        raise error(Code.SPEC_INVALID, f"{what}: not confirmed", key="--yes", hint=hint)


@contextmanager
def no_status() -> Any:
    """Do nothing where a spinner would stand."""
    yield


def waiting(text: str) -> Any:
    """Return a context that shows a spinner on stderr while it lasts, on a terminal only."""
    err = Console(stderr=True)
    return err.status(text) if err.is_terminal and not session().json else no_status()
