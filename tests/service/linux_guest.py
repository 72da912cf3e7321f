"""Running Python of ours as root inside a Linux guest that has what the test machine's kernel lacks.

The guest is a Debian 12 with its own kernel (6.1) or another release's, run by TCG: device mapper, md, LVM, thin pools,
xfs, btrfs and BPF are real in it. Three disks are made here: the trees of Debian's and of Python's packages, once
and kept in the cache, and the checkout (``common``, ``producer`` and ``tests`` as they are), at each start::

    vda    the tree; what the guest writes to it is gone with the guest
    vdb..  virtio disks of the test, sda.. SCSI disks (these can be pulled out: echo 1 >/sys/block/sda/device/delete)
    last   the checkout, at /checkout, the Python packages that it needs, at /packages; another kernel's modules

    ttyS0                     the kernel's console: kept in a log, shown when something goes wrong
    virtio port "control"     a line "LENGTH SECONDS" and a script; comes back: "exit CODE"
    virtio port "output"      what scripts print, and nothing else

Usage::

    with linux_guest(tmp_path, disks={"vdb": 1 * GiB}) as guest:
        assert "vdb" in guest.run("import os; print(os.listdir('/sys/block'))").check()

One start takes about 10 s; scripts after it start as quickly as Python does there (a second or two).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.service.linux_tree import (
    Kernel,
    kernel_of,
    linux_tree,
    make_checkout,
    make_initramfs,
    own_kernel,
    packages_disk,
)
from tests.service.process import Server

#: What the kernel is told: a panic ends qemu, and what it takes for a broken timer or a stall is a loaded machine.
_KERNEL = (
    "quiet loglevel=5 panic=-1 oops=panic no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1 nokaslr "
    "mitigations=off"
)

#: Memory of the guest, in MiB.
MEMORY = 1280

#: Seconds that a start may take on a loaded machine.
BOOT = 180.0

#: Seconds that a script may take when nobody says otherwise.
SCRIPT = 120.0

#: Seconds given to the guest to end a script that takes too long and to say so, before the guest itself counts as hung.
GRACE = 30.0

#: Exit code of ``timeout`` when it had to end the script.
TIMED_OUT = 124


class GuestError(RuntimeError):
    """The guest panicked, hung, or ended; the message holds what it printed last."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a script.

    Attributes:
        exit_code: Of the script; `TIMED_OUT` when it was ended because it took too long.
        output: Its stdout and stderr, in the order in which they were written.
    """

    exit_code: int
    output: str

    def check(self) -> str:
        """Return the output of a script that succeeded.

        Raises:
            AssertionError: It failed; the message holds its output.
        """
        assert self.exit_code == 0, f"the script in the guest ended with {self.exit_code}:\n{self.output}"
        return self.output


class LinuxGuest:
    """A guest that runs; made by `linux_guest`."""

    def __init__(self, *, server: Server, control: socket.socket, output: Path, console: Path) -> None:
        self._server = server
        self._control = control
        self._output = output
        self._console = console
        self._received = b""

    @property
    def console(self) -> str:
        """What the kernel printed so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def alive(self) -> bool:
        """Whether its qemu runs."""
        return self._server.alive

    @property
    def pid(self) -> int:
        """The pid of its qemu."""
        return self._server.pid

    def freeze(self) -> None:
        """Stop it in its tracks."""
        self._server.freeze()

    def run(self, script: str, *, timeout: float = SCRIPT) -> Result:
        """Run a Python script as root, with the checkout's packages importable and ``/tmp`` as its directory.

        Args:
            script: Its text.
            timeout: Seconds after which it is ended (exit code `TIMED_OUT`).

        Raises:
            GuestError: The guest panicked, hung, or ended.
        """
        begin = self._output.stat().st_size
        self.begin(script, timeout=timeout)
        answer = self.line("the end of a script", timeout + GRACE)
        with self._output.open("rb") as file:
            file.seek(begin)
            output = file.read().decode(errors="replace")
        return Result(int(answer.removeprefix("exit ")), output)

    def begin(self, script: str, *, timeout: float = SCRIPT) -> None:
        """Let a script run as `run` does, and don't wait for its end: it may be the guest's."""
        text = script.encode()
        self._control.sendall(f"{len(text)} {timeout:g}\n".encode() + text)

    def line(self, what: str, timeout: float) -> str:
        """Return the next line that the guest says to the harness.

        Raises:
            GuestError: It says nothing, and never will.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            self._control.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
            with suppress(TimeoutError):
                more = self._control.recv(4096)
                self._received += more
                if not more:
                    self._fail(f"ended while {what} was awaited")
            if time.monotonic() > deadline:
                self._fail(f"hangs: {what} was awaited for {timeout:g} s in vain")
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace").strip()

    def _fail(self, what: str) -> None:
        if "Kernel panic" in self.console:
            what = f"panicked ({what})"
        printed = self._output.read_text(errors="replace")[-2000:] if self._output.exists() else ""
        raise GuestError(
            f"the guest {what}\n--- its scripts' last output\n{printed}\n--- its console's last lines\n"
            f"{self.console[-4000:]}\n--- qemu\n{self._server.tail(1000)}"
        )


@contextmanager
def linux_guest(
    directory: Path, *, disks: Mapping[str, int] | None = None, release: str | None = None
) -> Iterator[LinuxGuest]:
    """Start a guest, and end it for certain.

    Args:
        directory: Where its disks, its console's log and its output are kept.
        disks: Sizes in bytes of empty disks by the names that they get in the guest: ``vdb``, ``vdc``, ... without
            gaps (virtio), ``sda``, ``sdb``, ... without gaps (SCSI).
        release: Release of Debian whose kernel it has; by default its own.

    Raises:
        GuestError: It did not start.
    """
    tree = linux_tree()
    files = {name: directory / f"{name}.disk" for name in sorted(disks or {})}
    for name, path in files.items():
        with path.open("wb") as file:
            file.truncate((disks or {})[name])
    checkout = directory / "checkout.ext4"
    make_checkout(checkout)
    kernel = own_kernel(tree.with_suffix("")) if release is None else kernel_of(release)
    make_initramfs(directory / "initramfs", tree.with_suffix(""), kernel)
    output, console, control = directory / "output", directory / "console", directory / "control"
    output.touch()
    with suppress(FileNotFoundError):
        control.unlink()
    command = _command(directory, tree, files, kernel)
    server = Server(command, log=directory / "qemu.log")
    with talking(server, control, output=output, console=console) as guest:
        yield guest


@contextmanager
def talking(server: Server, control: Path, *, output: Path, console: Path) -> Iterator[LinuxGuest]:
    """Start a guest's qemu, wait until its harness is ready, and end it for certain.

    Raises:
        GuestError: It did not start.
    """
    client = socket.socket(socket.AF_UNIX)

    def connected() -> bool:
        client.connect(os.path.relpath(control))  # an absolute path may be too long for a socket
        return True

    try:
        server.start(connected, "qemu")
        guest = LinuxGuest(server=server, control=client, output=output, console=console)
        while guest.line("the guest's start", BOOT) != "ready":
            pass
        yield guest
    finally:
        client.close()
        server.kill()


def _command(directory: Path, tree: Path, files: Mapping[str, Path], kernel: Kernel) -> list[str]:
    command = ["qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", str(MEMORY), "-cpu", "qemu64,+rdrand,+ssse3"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", str(kernel.image)]
    command += ["-append", f"console=ttyS0,115200 {_KERNEL}"]
    command += ["-initrd", str(directory / "initramfs"), "-serial", f"file:{directory}/console"]
    command += ["-device", "virtio-serial-pci,id=ports"]
    command += ["-chardev", f"socket,id=control,path={os.path.relpath(directory / 'control')},server=on,wait=off"]
    command += ["-device", "virtserialport,chardev=control,name=control"]
    command += ["-chardev", f"file,id=output,path={directory}/output"]
    command += ["-device", "virtserialport,chardev=output,name=output"]
    command += ["-device", "virtio-scsi-pci,id=scsi"]
    drives = {"tree": tree, **files, "checkout": directory / "checkout.ext4", "packages": packages_disk()}
    if kernel.disk is not None:
        drives["modules"] = kernel.disk
    for name, path in drives.items():
        kept = "off" if name in files else "on"
        command += ["-drive", f"file={path},format=raw,if=none,id={name},cache=unsafe,snapshot={kept}"]
        kind = "scsi-hd,bus=scsi.0" if name.startswith("sd") else "virtio-blk-pci"
        command += ["-device", f"{kind},drive={name},serial={name}"]
    return command
