"""The demo, step by step."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bootpoint_common import log
from bootpoint_common.config import Config
from bootpoint_common.errors import Code, error
from bootpoint_common.keyplace import KeyPlace
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import guest_disk, up
from bootpoint_ops.demo import disk, guest, report
from bootpoint_ops.demo.command import Commands
from bootpoint_ops.demo.made import Made
from bootpoint_ops.demo.place import DEFAULT_DIRECTORY, VM, Place, claimed, clear
from bootpoint_ops.demo.report import Report
from bootpoint_ops.demo.service import daemons
from bootpoint_ops.host import NewHost
from bootpoint_worker.targets.journal import of_vm
from bootpoint_worker.targets.kvm import KvmTarget, connect

#: Names of the agent and the job, and of the host.
JOB, HOST = "demo", "local"

#: Seconds that a guest may take until it shows itself; emulated on two busy cores it needs 30.
BOOT_TIMEOUT = 300.0

#: Seconds that libvirt may take to answer; some need 20 whenever they ask QEMU what it can do.
PATIENCE = 240

_JOB_FILE = """\
name = "{job}"
[source]
agent = "{job}"
disks = [{{ slot = "system", id = "file:{disk}" }}]

[check]
boot = "never"             # the demo starts every point itself

[[target]]
host = "{host}"
vm = {{ name = "{vm}", cpus = {cpus}, memory = "{memory}", firmware = "{firmware}" }}
storage = {{ name = "{storage}" }}
[[target.nic]]
{network}connect = false            # a copy of a machine must not meet it on the network
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be said to the demo.

    Attributes:
        disk: A bootable disk to protect a copy of; None for a small one of the demo's own.
        virt_type: ``kvm`` or ``qemu``.
        directory: Where it lies.
        report: File that gets the report as JSON too.
        boot_timeout: Seconds that a guest may take.
    """

    disk: Path | None = None
    virt_type: str = "qemu"
    directory: Path = DEFAULT_DIRECTORY
    report: Path | None = None
    boot_timeout: float = BOOT_TIMEOUT


def main(options: Options) -> Report:
    """Run the demo.

    Returns:
        What happened; everything held.

    Raises:
        BootpointError: What did not hold, or could not be done.
    """
    if os.geteuid() != 0:
        raise error(Code.HOST_PERMISSION, "the demo runs VMs on this machine, which takes root", hint="use sudo")
    with _ended_by_sigterm():
        return Demo(options, Console(highlight=False)).run()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does: VMs and daemons first."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Demo:
    """One demo.

    Args:
        options: What was said.
        out: The terminal.
    """

    def __init__(self, options: Options, out: Console) -> None:
        self._options = options
        self._out = out
        self._step = 0

    def run(self) -> Report:
        """Do all of it, and leave nothing running."""
        began = time.monotonic()
        with ExitStack() as stack:
            place = stack.enter_context(claimed(self._options.directory.absolute()))
            self._out.print(Text(f"bootpoint demo, in {place.directory}", style="bold"))
            closed = place.no_kvm if self._options.virt_type == "qemu" else None
            started = stack.enter_context(daemons(place.libvirt_log, closed))
            self._head("libvirt", f"started for the demo: {', '.join(started)}" if started else "runs already")
            settings = {"virt_type": self._options.virt_type}
            target = connect(NewHost(name=HOST, kind="kvm", address="local", settings=settings).access())
            stack.callback(target.close)
            if clear(place, target):
                self._note("what an earlier demo left is removed")
            source, marker = self._disk(place)
            commands = self._up(stack, place)
            host = self._add_host(commands)
            self._add_job(commands, place, source, host)
            runs = self._runs(commands, place, source, marker)
            verified = self._verify(commands, runs)
            booted = self._boot(commands, target, runs)
            stored = commands.ask("vm", "points", HOST, VM, tell=False)["items"]
            done = Report(
                directory=place.directory,
                seconds=time.monotonic() - began,
                disk=source.path,
                given=source.given,
                host_version=str(host["version"]),
                virt_type=self._options.virt_type,
                started=started,
                replica=place.replica,
                vm=VM,
                points=tuple(starmap(Made.report, zip(runs, verified, booted, stored, strict=True))),
            )
        self._end(place, done)
        return done

    # --- steps

    def _disk(self, place: Place) -> tuple[disk.Source, str | None]:
        if self._options.disk is not None:
            given = self._options.disk.absolute()
            self._head("disk", f"copying {given}, which itself is only read")
            source, marker = disk.copy_of(given, place.disk), None
        else:
            self._head("disk", "making a small bootable one of Debian's packages (the first time takes a minute)")
            marker = secrets.token_hex(8)
            source = disk.own(place.disk, marker)
        facts = place.disk.stat()
        holds = f", holds the marker {marker}" if marker else f", boots by {source.firmware.upper()}"
        self._note(f"{place.disk}: {format_size(facts.st_size)}, {format_size(facts.st_blocks * 512)} in use{holds}")
        return source, marker

    def _up(self, stack: ExitStack, place: Place) -> Commands:
        self._head("bootpoint up", "database, workers and the agent of this machine, in this process")
        config = Config(
            state_directory=place.state, installation_key=KeyPlace.in_state(place.state), metrics=None
        )
        log.configure(config.log_format, config.log_level, stack.enter_context(place.log.open("a")))
        options = up.Options(agent=JOB, files=(str(place.disk),), agent_config=place.state / "no-agent.toml")
        stack.enter_context(up.running(config, options, say=self._note))
        return Commands(place.state, self._command)

    def _add_host(self, commands: Commands) -> dict[str, Any]:
        self._head("host", "this machine's libvirt is where the standby VM is kept")
        kind = self._options.virt_type
        where = ("--kind", "kvm", "--address", "local", "--virt-type", kind, "--timeout", str(PATIENCE))
        host = commands.ask("host", "add", HOST, *where)
        if host["state"] != "reachable":
            text = f"libvirt on this machine can't be used: {host['reason']} {'; '.join(host['problems'])}"
            raise error(Code.HOST_UNSUPPORTED, text, host=HOST, hint="`bootpoint host check` says more")
        self._note(f"{host['version']}, {host['cpus']} CPUs, VMs of type {kind}")
        return host

    def _add_job(self, commands: Commands, place: Place, source: disk.Source, host: dict[str, Any]) -> None:
        self._head("job", "what is protected, and where to")
        network = f'network = "{host["networks"][0]["name"]}"\n' if host["networks"] else ""
        text = _JOB_FILE.format(
            job=JOB, disk=place.disk, host=HOST, vm=VM, cpus=source.cpus, memory=source.memory,
            firmware=source.firmware, storage=place.storage, network=network,
        )  # fmt: skip
        place.job_file.write_text(text)
        commands.ask("job", "apply", str(place.job_file))

    def _runs(self, commands: Commands, place: Place, source: disk.Source, marker: str | None) -> list[Made]:
        self._head("boot point 1", "a full copy")
        runs = [self._one_run(commands, place, marker)]
        if source.own:
            marker = secrets.token_hex(8)
            self._head("boot point 2", f"the disk changes: it now holds the marker {marker}")
            guest_disk.set_marker(source.path, marker)
        else:
            self._head("boot point 2", "nothing is written to a disk that isn't the demo's own: it stays as it is")
        return [*runs, self._one_run(commands, place, marker)]

    def _one_run(self, commands: Commands, place: Place, marker: str | None) -> Made:
        well = commands.show("job", "run", JOB, "--wait")
        shown = commands.ask("run", "list", "--job", JOB, "--limit", "1", tell=False)["items"][0]
        if not well or shown["state"] != "succeeded":
            reason = Code(shown["reason"]) if shown["reason"] in set(Code) else Code.STALLED
            raise error(reason, f"run {shown['id']} {shown['state']}: {shown['message']}", job=JOB, host=HOST)
        return Made(place, marker, shown)

    def _verify(self, commands: Commands, runs: list[Made]) -> list[tuple[str, float]]:
        self._head("verify", "reading both points back from the host, and comparing with what the disk was")
        found = []
        for run in runs:
            began = time.monotonic()
            item = commands.ask("point", "verify", JOB, run.point)
            if item["verified_at"] is None or item["reread_digest"] != item["read_digest"]:
                text = f"{run.point}: {item['read_digest']} was read, but {item['reread_digest']} lies on the host"
                raise error(Code.TARGET_CHECK_FAILED, text, job=JOB, host=HOST, value=run.point)
            found.append((str(item["reread_digest"]), time.monotonic() - began))
            self._note(f"{run.point}: identical, {item['reread_digest'][:19]}…")
        return found

    def _boot(self, commands: Commands, target: KvmTarget, runs: list[Made]) -> list[guest.Seen]:
        """Start both at once: each guest keeps one CPU busy."""
        self._head("boot", "a test VM from each point, cut off from the network; what it writes is thrown away")
        try:
            started = []
            for number, run in enumerate(runs, start=1):
                started.append(time.monotonic())
                commands.ask(
                    "vm", "start", HOST, VM, run.point, "--test", str(number), "--serial-log",
                    str(run.serial_log), "--timeout", str(PATIENCE), "--yes",
                )  # fmt: skip
            with self._out.status("the VMs boot"):
                return [self._await(run, began) for run, began in zip(runs, started, strict=True)]
        finally:
            _end_tests(target, len(runs))
            self._note("the test VMs are ended and removed")

    def _await(self, run: Made, began: float) -> guest.Seen:
        seen = guest.wait(run.serial_log, run.marker, began=began, timeout=self._options.boot_timeout)
        if run.marker is not None and not seen.booted:
            raise error(
                Code.STALLED, f"the VM of {run.point} did not show the marker {run.marker} within"
                f" {format_duration(seen.seconds)}; the last it wrote: {seen.text}", job=JOB, host=HOST,
                value=run.point, hint=f"read {run.serial_log}; on a slow machine say --boot-timeout",
            )  # fmt: skip
        self._note(f"{run.point} after {format_duration(seen.seconds)}: {seen.text}")
        return seen

    def _end(self, place: Place, done: Report) -> None:
        text = json.dumps(done.as_json(), indent=2) + "\n"
        place.report.write_text(text)
        if self._options.report is not None:
            self._options.report.write_text(text)
        report.show(done, self._out)
        self._out.print()
        self._out.print(Text(f"done in {format_duration(done.seconds)}: everything held", style="bold green"))

    # --- telling

    def _head(self, what: str, text: str) -> None:
        self._step += 1
        self._out.print(Text.assemble((f"\n{self._step}  {what}", "bold"), f"  {text}"), soft_wrap=True)

    def _note(self, text: str) -> None:
        self._out.print(Text(f"   {text}"), soft_wrap=True)

    def _command(self, line: str) -> None:
        self._out.print(Text(f"   $ {line}", style="dim"), soft_wrap=True)


def _end_tests(target: KvmTarget, count: int) -> None:
    found = of_vm(target.find_replicas(), VM)
    if found is not None:
        for number in range(1, count + 1):
            target.stop(found.replica, str(number))
