"""``bootpoint point mount`` and ``umount``: the files of a boot point on this machine, to take some out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootpoint_common.config import Config
from bootpoint_ops import mount as mounts
from bootpoint_ops.cli.export import credential_options
from bootpoint_ops.cli.output import emit, output_option, say, waiting
from bootpoint_ops.cli.point import point
from bootpoint_ops.cli.stated import secrets_of

_DIRECTORY = click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path)


@point.command()
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--disk", "slot", metavar="SLOT", help="One disk of the point. [default: all]")
@click.option("--host", metavar="H", help="Which target, when the job has several.")
@credential_options
@output_option
def mount(
    job: str,
    name: str,
    directory: Path,
    *,
    slot: str | None,
    host: str | None,
    ssh_key: Path | None,
    password_file: Path | None,
) -> None:
    """Mount the file systems of boot point P of job J at DIR, an empty directory of this machine, read-only.

    An operating system is shown as it mounts itself; where there is none, each file system at DIR/<disk>/<partition>.
    The drivers run in a small VM (libguestfs), so that nothing on the disk meets this machine's kernel.
    """
    order = mounts.Order(
        job=job,
        point=name,
        host=host,
        slot=slot,
        directory=str(directory),
        secrets=secrets_of(ssh_key, password_file),
    )
    with waiting(f"mounting {name} of {job}"):
        answer = mounts.begin(Config.from_environment().state_directory, order)
    items = [{"path": str(directory) + path.rstrip("/"), "device": device} for path, device in answer.mounted]
    shown = {"job": job, "point": answer.point, "directory": str(directory), "items": items}
    emit(shown, lambda out: _show(out, shown))


def _show(out: Console, shown: dict[str, Any]) -> None:
    out.print(f"{shown['point']} of {shown['job']} is mounted at {shown['directory']}, read-only:", markup=False)
    for item in shown["items"]:
        out.print(f"  {item['path']}  ({item['device']} of the point)", markup=False)
    out.print(f"end it with: bootpoint point umount {shown['directory']}", markup=False)


@point.command()
@click.argument("directory", metavar="DIR", type=click.Path(readable=False, path_type=Path))
@output_option
def umount(directory: Path) -> None:
    """Unmount a boot point from DIR, and let go of it."""
    # Not asked whether it exists: of a mount whose VM died, nothing can be looked at.
    place = directory.resolve()
    record = mounts.end(Config.from_environment().state_directory, str(place))
    say(f"{place} is unmounted", {"directory": str(place), "point": None if record is None else record.point})
