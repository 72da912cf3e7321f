"""The table of results: printed, and kept as ``docs/benchmarks.md``."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bootpoint_common.units import GiB


def load() -> str:
    """Return how many processes wanted to run in the last 1, 5 and 15 minutes, on average."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table.

    Attributes:
        what: What was measured.
        value: What came out.
        bar: What it has to be; empty when it is there for information.
        met: Whether it is.
        beside: What explains it.
    """

    what: str
    value: str
    bar: str = ""
    met: bool = True
    beside: str = ""


@dataclass
class Report:
    """All lines.

    Attributes:
        title: What was copied.
        missing: Names of the cases that are still to be measured.
        load: Load of the machine before the start.
    """

    title: str
    missing: list[str]
    lines: list[Line] = field(default_factory=list)
    load: str = field(default_factory=load)

    def add(self, line: Line) -> None:
        """Note a line, and show it."""
        self.lines.append(line)
        print(f"{line.what}: {line.value}   {line.bar} {_verdict(line)}   {line.beside}", flush=True)

    def at_least(self, what: str, values: list[float], bar: float, beside: str) -> None:
        """Note the median of some ratios that has to be large."""
        median = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        self.add(Line(what, f"{median:.2f} ({spread})", f"≥ {bar:g}", median >= bar, beside))

    def at_most(self, what: str, value: float, bar: float, unit: str, beside: str) -> None:
        """Note a value that has to be small."""
        text = f"{value:.2f}" if not unit else f"{value:.0f} {unit}"
        self.add(Line(what, text, f"≤ {bar:g} {unit}".strip(), value <= bar, beside))

    @property
    def met(self) -> bool:
        """Whether all bars are met."""
        return all(line.met for line in self.lines)

    def markdown(self) -> str:
        """Return the page."""
        rows = "\n".join(
            f"| {line.what} | {line.value} | {line.bar} | {_verdict(line)} | {line.beside} |" for line in self.lines
        )
        missing = f"Not measured: {', '.join(self.missing)}.\n\n" if self.missing else ""
        return (
            f"# Benchmarks\n\n{INTRODUCTION}\n{datetime.now(UTC):%Y-%m-%d}, {self.title}\n\n"
            f"Machine: {machine()}; load before the start {self.load}, at the end {load()}.\n\n{missing}"
            f"| what | median (least to most) | bar | | beside |\n|---|---|---|---|---|\n{rows}\n"
        )


INTRODUCTION = """\
Measured by `make bench`, which writes this page; nothing here was reckoned or carried over from elsewhere.

Source: a raw file of system files and random bytes, its data in 15 stretches with holes between them, in the page
cache. Target: qcow2 on tmpfs. Ours goes from the request of a run to the committed boot point: preflight, snapshot,
encryption, a real RabbitMQ on disk, PostgreSQL, flushes, the reading back of samples and the definition of the standby
are in it. The agent and two workers are processes of their own. nbdcopy writes with `--flush` to a qemu-nbd of the same
cache mode, without encryption, and without a network in between. All take turns within a round; each ratio is made
within a round, and the median of the rounds is shown. CPU seconds are those of all processes that took part, for us
broker, database and qemu-nbd too. The first full copy and the last increment are compared with the source by
`qemu-img compare`.

The phases of a run: until its point is open (preflight, snapshot, layer); its stream, until it is sealed; the commit.
An increment here is found by hashing: all data is read and digested, so its cost grows with the disk and not with what
changed. Only the lines that name ebpf are of disks whose writes are followed: loop devices with 0.25 GiB of data and
holes, which a device reads like anything else. On two cores agent, workers, broker and qemu-nbd share what there is,
and the stream ends when their processor seconds are spent.
"""


def _verdict(line: Line) -> str:
    return "" if not line.bar else "met" if line.met else "MISSED"


def machine() -> str:
    """Describe this machine in a line."""
    cpus = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpus.splitlines() if line.startswith("model name")), "?")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024 / GiB
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return (
        f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release()}, Python"
        f" {platform.python_version()}, qemu {qemu}"
    )
