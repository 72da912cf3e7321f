"""What the demo found and what it cost, for people and for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bootpoint_common.units import format_duration, format_size
from bootpoint_ops.demo.guest import Seen

#: What the table of costs says of each point; how its VM booted comes last.
_ROWS = (
    "kind", "run took", "read from the disk", "changed", "sent, encrypted", "of what changed", "stored", "verified in",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PointReport:
    """One boot point.

    Attributes:
        name: ``V…``.
        kind: ``full`` or ``increment``.
        run: Number of its run.
        marker: What the disk held at its instant; None for a disk that isn't the demo's own.
        run_seconds: From the run's start to the commit.
        scanned_bytes: Read from the source.
        changed_bytes: Different from the point before.
        wire_bytes: Compressed and encrypted, as they travelled.
        stored_bytes: What it takes on the host.
        verify_seconds: Reading all of it back from the host, and comparing.
        digest: What both readings gave.
        files: Path of each disk's file, by slot.
        serial_log: What the test VM that was started from it wrote to its serial port.
        boot: What it showed.
    """

    name: str
    kind: str
    run: int
    marker: str | None
    run_seconds: float
    scanned_bytes: int
    changed_bytes: int
    wire_bytes: int
    stored_bytes: int
    verify_seconds: float
    digest: str
    files: dict[str, str]
    serial_log: Path
    boot: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A demo that went well.

    Attributes:
        directory: Where everything lies.
        seconds: How long it took.
        disk: The disk that was protected.
        given: The disk that this is a copy of.
        host_version: libvirt's and QEMU's.
        virt_type: How the VMs ran.
        started: Daemons that ran for the demo only.
        replica: The standby's directory.
        vm: The standby.
        points: Oldest first.
    """

    directory: Path
    seconds: float
    disk: Path
    given: Path | None
    host_version: str
    virt_type: str
    started: tuple[str, ...]
    replica: Path
    vm: str
    points: tuple[PointReport, ...]

    @property
    def runbook(self) -> Path:
        """How to start the standby without bootpoint."""
        return self.replica / "RUNBOOK.txt"

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "runbook": self.runbook}, default=str))
        return found


def show(report: Report, out: Console) -> None:
    """Print a report."""
    out.print()
    out.print(_costs(report))
    out.print()
    for line in (*_proofs(report), "", *_places(report), "", *_next_steps(report)):
        out.print(line, soft_wrap=True)


def _costs(report: Report) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    drawn.add_column("")
    for point in report.points:
        drawn.add_column(point.name, justify="right")
    booted = "booted in" if all(point.boot.booted for point in report.points) else "watched for"
    columns = [
        (
            point.kind,
            format_duration(point.run_seconds),
            format_size(point.scanned_bytes),
            format_size(point.changed_bytes),
            format_size(point.wire_bytes),
            _share(point.wire_bytes, point.changed_bytes),
            format_size(point.stored_bytes),
            format_duration(point.verify_seconds),
            format_duration(point.boot.seconds),
        )
        for point in report.points
    ]
    for name, *values in zip((*_ROWS, booted), *columns, strict=True):
        drawn.add_row(name, *values)
    return drawn


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _proofs(report: Report) -> list[str | Text]:
    lines: list[str | Text] = []
    for point in report.points:
        if point.marker is not None or point.boot.booted:
            text = f"{point.name} is identical to the disk at its instant, and boots: {point.boot.text}"
        else:
            text = (
                f"{point.name} is identical to the disk at its instant; its VM ran, and did not ask for a login on its"
                f" serial port within {format_duration(point.boot.seconds)}; the last it wrote: {point.boot.text}"
            )
        lines.append(Text(text))
    if report.given is not None:
        lines.append(Text(f"{report.given} was only read; nothing was changed in its copy, so both points are alike."))
    return lines


def _places(report: Report) -> list[Text]:
    pairs = [
        ("replica", str(report.replica)),
        ("runbook", str(report.runbook)),
        *((f"serial log {number}", str(point.serial_log)) for number, point in enumerate(report.points, start=1)),
        ("log", str(report.directory / "bootpoint.log")),
    ]
    return [Text.assemble((f"{name:13}", "bold"), " ", path) for name, path in pairs]


def _next_steps(report: Report) -> list[Text]:
    newest, bootpoint = report.points[-1], Path(sys.executable).with_name("bootpoint")
    commands = [
        *(f"{name} -d" for name in report.started),
        f"sed -n '/^# BEGIN {newest.name}$/,/^# END/p' {report.runbook} | sh",
        f"virsh -c qemu:///system domstate {report.vm}",
    ]
    further = [
        f"export BOOTPOINT_STATE={report.directory}/state",
        f"{bootpoint} up --agent demo --file {report.disk}",
        f"{bootpoint} job run demo --wait",
        f"{bootpoint} point list demo",
    ]
    return [
        Text("What to do next", style="bold"),
        Text("Start the standby without bootpoint, as on the day when nothing else is left:"),
        *(Text(f"  {command}", style="cyan") for command in commands),
        Text("Go on: bring bootpoint up again in one shell, change the disk, make a boot point of it in another:"),
        *(Text(f"  {command}", style="cyan") for command in further),
        Text("Protect a machine of your own: docs/getting-started.md"),
    ]
