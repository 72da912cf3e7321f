"""Disks on a terminal or into a pipe: the drawing where people look, the table where programs do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console

from bootpoint_common.diskview.drawing import draw

F = TypeVar("F", bound=Callable[..., Any])


def draw_option(command: F) -> F:
    """Add ``--draw/--no-draw`` to a command; None where neither is said."""
    return click.option(
        "--draw/--no-draw",
        "drawn",
        default=None,
        help="Draw each disk to scale, or print a table. [default: draw on a terminal]",
    )(command)


def paint(console: Console, found: Mapping[str, Any]) -> None:
    """Print the drawing of a machine's disks, as wide as the terminal (80 columns, or ``COLUMNS``, where none is)."""
    for line in draw(found, console.width, ascii_only=console.options.ascii_only):
        console.print(line, soft_wrap=True, highlight=False)


def warn(found: Mapping[str, Any]) -> None:
    """Say on stderr what the machine could not be asked."""
    for problem in found.get("problems") or ():
        click.echo(f"warning: {problem}", err=True)
