"""``bootpoint point``: boot points of a job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console

from bootpoint_common.errors import Code, RefusedError, error
from bootpoint_common.store import verification
from bootpoint_common.store.database import one
from bootpoint_common.store.job import ReplicaRow
from bootpoint_common.store.request import from_json
from bootpoint_common.units import format_size
from bootpoint_ops import read, trial
from bootpoint_ops.cli.output import Session, emit, fields, output_option, session, table, waiting

#: Seconds between two looks for the end of a verification.
INTERVAL = 0.25

#: Damaged segments that are named on the terminal.
_SHOWN = 20

_HOST = click.option("--host", metavar="H", help="Which target, when the job has several.")


@click.group()
def point() -> None:
    """Boot points: instants from which a standby VM can be started."""


@point.command("list")
@click.argument("job", metavar="J")
@_HOST
@click.option("--all", "every", is_flag=True, help="Aborted ones too.")
@output_option
def list_(job: str, host: str | None, *, every: bool) -> None:
    """List the boot points of a job, newest first."""
    with session().env.database.transaction() as connection:
        found = read.point_list(connection, job, host=host, every=every)
    lines = [
        (
            item["name"],
            item["host"],
            "damaged" if read.is_damaged(item) else item["state"],
            item["kind"],
            *(format_size(item[key]) for key in ("scanned_bytes", "changed_bytes", "wire_bytes", "stored_bytes")),
            "yes" if item["verified_at"] else "no",
            (item["boot"] or {}).get("verdict"),
            ", ".join((["pinned"] if item["pinned"] else []) + (["in use"] if item["in_use_by"] else [])),
        )
        for item in found["items"]
    ]
    columns = ("NAME", "HOST", "STATE", "KIND", ">READ", ">CHANGED", ">SENT", ">STORED", "VERIFIED", "BOOT", "KEPT")
    emit(
        found,
        table(columns, lines, empty=f"job {found['job']} has no boot points yet: `bootpoint job run {found['job']}`"),
    )


def _find(here: Session, job: str, name: str, host: str | None) -> tuple[ReplicaRow, dict[str, Any]]:
    with here.env.database.transaction() as connection:
        replica = read.replica_of(connection, job, host)
        return replica, read.point(connection, replica, name)


@point.command()
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@_HOST
@click.option(
    "--screenshot",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the picture of its last boot check there, as PNG.",
)
@output_option
def show(job: str, name: str, host: str | None, file: Path | None) -> None:
    """Show a boot point; P is its name, or `latest`."""
    here = session()
    replica, item = _find(here, job, name, host)
    if file is not None:
        with here.env.database.transaction() as connection:
            point_id = read.point_id(connection, replica, name)
            file.write_bytes(trial.picture(connection, replica, item["name"], point_id))
    _show(item)


def _show(item: dict[str, Any]) -> None:
    disks = [
        f"{disk['slot']}: {format_size(disk['size_bytes'])}, read {format_size(disk['scanned_bytes'])},"
        f" changed {format_size(disk['changed_bytes'])}, sent {format_size(disk['wire_bytes'])},"
        f" stored {format_size(disk['stored_bytes'])}, {disk['layer']}"
        for disk in item["disks"]
    ]
    shown = [
        *(
            ("name", item["name"]),
            ("job", item["job"]),
            ("host", item["host"]),
            ("state", item["state"]),
            ("kind", item["kind"]),
        ),
        *(
            ("reason", item["reason"]),
            ("level", item["consistency"]),
            ("instant", item["instant"]),
            ("committed", item["committed_at"]),
        ),
        *(
            ("run", item["run"]),
            ("read", format_size(item["scanned_bytes"])),
            ("changed", format_size(item["changed_bytes"])),
            ("sent", format_size(item["wire_bytes"])),
        ),
        *(
            ("stored", format_size(item["stored_bytes"])),
            ("digest", item["read_digest"]),
            ("verified", item["verified_at"]),
        ),
        *(("damaged", item["damaged_at"]), ("damage", _damage(item)), ("boot", _boot(item["boot"]))),
        ("pinned", _pin_line(item["pinned"])),
        ("in use by", "\n".join(f"{use['kind']} {use['holder']}" for use in item["in_use_by"])),
        ("disks", "\n".join(disks)),
        ("start", _start_of(item["profile"])),
    ]
    emit(item, fields(shown))


def _pin_line(pin: dict[str, Any] | None) -> str | None:
    if pin is None:
        return None
    return f"by {pin['user']}: {pin['reason']}" + (f", until {pin['until']}" if pin["until"] else "")


def _start_of(profile: dict[str, Any] | None) -> str | None:
    """Say what a start of the machine takes, and what is in its way."""
    if profile is None:
        return None
    problems = [f"{'' if each['bootable'] else 'will not boot: '}{each['text']}" for each in profile["problems"]]
    return "\n".join([f"conversion {profile['route']}", *profile["actions"], *problems])


def _boot(boot: dict[str, Any] | None) -> str | None:
    if boot is None:
        return None
    return f"{boot['verdict']} at {boot['at']}: {boot.get('reason')}"


def _damage(item: dict[str, Any]) -> str | None:
    lines = [damage["text"] for damage in item["damage"][:_SHOWN]]
    if len(item["damage"]) > _SHOWN:
        lines.append(f"and {len(item['damage']) - _SHOWN} more segments")
    return "\n".join(lines) or None


@point.command()
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@_HOST
@click.option(
    "--timeout", default=0.0, help="Seconds to wait for the result; 0 waits as long as it takes. [default: 0]"
)
@output_option
def verify(job: str, name: str, host: str | None, timeout: float) -> None:
    """Read a boot point back from its host and compare it with what the source was; exit with 1 if it is damaged."""
    here = session()
    with here.env.database.transaction() as connection:
        replica = read.replica_of(connection, job, host)
        item = read.point(connection, replica, name)
        point_id = read.point_id(connection, replica, name)
        if item["state"] != "committed":
            raise _not_committed(replica, item)
        begun = verification.ask(connection, point_id, requested_by=here.env.actor, budgeted=False)
    with waiting(f"verifying {item['name']} on {replica.host}"):
        _wait(here, replica, item["name"], begun, timeout)
    with here.env.database.transaction() as connection:
        item = read.point(connection, replica, item["name"])
    emit(item, lambda out: _show_verdict(out, item))
    if read.is_damaged(item):
        raise click.exceptions.Exit(1)


def _not_committed(replica: ReplicaRow, item: dict[str, Any]) -> Exception:
    return RefusedError(
        Code.POINT_IN_USE,
        f"boot point {item['name']} is {item['state']}, only committed ones can be verified",
        job=replica.job_name,
        host=replica.host,
        key="point",
        value=item["name"],
    )


def _show_verdict(out: Console, item: dict[str, Any]) -> None:
    if read.is_damaged(item):
        out.print(f"{item['name']} on {item['host']} is damaged:", markup=False)
        out.print(_damage(item) or "-", markup=False)
    else:
        out.print(
            f"{item['name']} on {item['host']} is identical to the source at its instant: {item['reread_digest']}",
            markup=False,
        )


def _wait(here: Session, replica: ReplicaRow, name: str, begun: UUID, timeout: float) -> None:
    """Wait until a verification has ended.

    Raises:
        BootpointError: It failed, or nobody did it in time.
    """
    deadline = time.monotonic() + timeout if timeout > 0 else None
    while True:
        with here.env.database.transaction() as connection:
            query = "SELECT result, problem FROM verification WHERE id = %s AND ended_at IS NOT NULL"
            found = one(connection, query, begun)
        if found is not None:
            break
        if deadline is not None and time.monotonic() > deadline:
            raise error(
                Code.NO_WORKER, f"no worker of pool {replica.pool} verified {name} within {timeout:g} s",
                job=replica.job_name, host=replica.host, key="point", value=name,
            )  # fmt: skip
        time.sleep(INTERVAL)
    if found["problem"] is not None:
        raise from_json({**found["problem"], "job": replica.job_name, "host": replica.host})
