"""``bootpoint point export`` and ``vm export``: the disks of a boot point as files on this machine."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bootpoint_common.units import format_size
from bootpoint_ops.cli.output import emit, output_option, session
from bootpoint_ops.cli.point import point
from bootpoint_ops.cli.reach import direct_of, job_of, login_of, reach, words_of
from bootpoint_ops.cli.stated import secrets_of
from bootpoint_ops.cli.vm import vm
from bootpoint_ops.export import FORMATS, Exported
from bootpoint_ops.export import export as write

if TYPE_CHECKING:
    from bootpoint_ops.reached import Reached

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def credential_options(command: F) -> F:
    """Add credentials of the host, for where they are not saved."""
    for option in (
        click.option("--password-file", type=_FILE, help="File with the password, where none is saved."),
        click.option("--ssh-key", type=_FILE, help="File with the private key, where none is saved."),
    ):
        command = option(command)
    return command


def _what(command: F) -> F:
    """Add what is exported, as what, and where to."""
    options = [
        click.option(
            "--to", "directory", required=True, metavar="DIR", help="Directory of this machine.",
            type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
        ),
        click.option("--format", "form", required=True, type=click.Choice(sorted(FORMATS)), help="Of the files."),
        click.option("--disk", "slot", metavar="SLOT", help="One disk of the point. [default: all]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@point.command("export")
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@_what
@click.option("--host", metavar="H", help="Which target, when the job has several.")
@credential_options
@output_option
def export_point(
    job: str,
    name: str,
    *,
    directory: Path,
    form: str,
    slot: str | None,
    host: str | None,
    ssh_key: Path | None,
    password_file: Path | None,
) -> None:
    """Write the disks of boot point P of job J to files on this machine.

    The files are named <vm>-<disk>-<point>.<format>; none is replaced. This machine reaches the host itself, and needs
    qemu-img.
    """
    from bootpoint_ops.reached import reach_point

    secrets = secrets_of(ssh_key, password_file)
    with ended_in_order(), reach_point(session().env, job, name, "export", host=host, secrets=secrets) as reached:
        _export(reached, directory, form, slot)


@vm.command("export")
@click.argument("words", nargs=-1, metavar="HOST VM [P]")
@_what
@reach
def export_vm(
    words: tuple[str, ...], timeout: float, *, directory: Path, form: str, slot: str | None, direct: bool, **way: Any
) -> None:
    """Write the disks of a standby's boot point P (the newest unless it is said) to files on this machine."""
    host, name, point_name = words_of(words, ("HOST", "VM", "P"), direct=direct, optional=1)
    with ended_in_order(), contextlib.ExitStack() as stack:
        if direct:
            from bootpoint_ops.direct import reach_point as reach_directly

            reached = stack.enter_context(reach_directly(direct_of(**way), str(name), point_name))
        else:
            from bootpoint_ops.reached import reach_point

            secrets = login_of(**way)
            job = job_of(host, name, timeout, secrets)
            way_to = reach_point(session().env, job, point_name or "latest", "export", host=host, secrets=secrets)
            reached = stack.enter_context(way_to)
        _export(reached, directory, form, slot)


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: what was begun is taken back."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _export(reached: Reached, directory: Path, form: str, slot: str | None) -> None:
    with _bars() as progress:
        found = write(reached, directory.absolute(), form, slot, progress)
    items = [
        {
            "slot": one.slot,
            "path": str(one.path),
            "format": form,
            "size_bytes": one.size_bytes,
            "file_bytes": one.file_bytes,
        }
        for one in found
    ]
    shown = {"job": reached.replica.job, "vm": reached.replica.vm_name, "point": reached.point.name, "items": items}
    emit(shown, lambda out: _show(out, found))


def _show(out: Console, found: list[Exported]) -> None:
    for one in found:
        size, taken = format_size(one.size_bytes), format_size(one.file_bytes)
        out.print(f"{one.path}: disk {one.slot}, {size}, takes {taken}", markup=False)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, float], None]]:
    """Show a bar for each disk on a terminal, and nothing elsewhere."""
    err = Console(stderr=True)
    if session().json or not err.is_terminal:
        yield lambda _slot, _done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def show(slot: str, done: float) -> None:
            if slot not in tasks:
                tasks[slot] = bars.add_task(slot, total=1.0)
            bars.update(tasks[slot], completed=done)

        yield show
