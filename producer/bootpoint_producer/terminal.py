"""What the agent's commands show a person or a program: tables, JSON, errors and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from bootpoint_common.errors import BootpointError, Code, error

F = TypeVar("F", bound=Callable[..., Any])

#: Exit code of what Ctrl-C ended.
_CANCELLED = 130

#: Width of a table that doesn't go to a terminal.
_PIPE_WIDTH = 1000


class Root(click.Group):
    """Turns errors into messages on stderr and exit codes: 1 failed, 2 usage, 3 not found, 4 refused, 130 cancelled."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **extra: Any) -> Any:
        """Run a call and end the process, or raise `SystemExit`."""
        words = list(sys.argv[1:] if args is None else args)
        extra.update(standalone_mode=False)
        try:
            code = super().main(words, *positional, **extra)
        except BootpointError as problem:
            _complain(problem, words)
            code = problem.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = _CANCELLED
        except click.ClickException as wrong:
            _complain(
                error(Code.SPEC_INVALID, wrong.format_message(), hint="`bootpoint-agent --help` explains the commands"),
                words,
            )
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


def _complain(problem: BootpointError, words: Sequence[str]) -> None:
    pairs = zip(words, [*words[1:], ""], strict=True)
    if any((one in ("-o", "--output") and two == "json") or one in ("-ojson", "--output=json") for one, two in pairs):
        click.echo(json.dumps(problem.as_json(), ensure_ascii=False), err=True)
        return
    lines = [f"error: {problem.message} ({problem.code})"]
    if problem.key:
        lines.append(f"  {problem.key}" + ("" if problem.value is None else f" = {problem.value}"))
    if problem.hint:
        lines.append(f"  {problem.hint}")
    click.echo("\n".join(lines), err=True)


def output_option(command: F) -> F:
    """Add ``-o table|json`` to a command."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
    )(command)


def table(*, header: bool) -> Table:
    """Return an empty table, without lines; with a header, columns are added before rows."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header, header_style="bold")


def show(what: Table) -> None:
    """Print a table as wide as the terminal; elsewhere its lines are never broken."""
    terminal = sys.stdout.isatty()
    Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal).print(what)
