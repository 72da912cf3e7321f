"""A guest's file systems, read in a VM of their own: libguestfs, spoken to through ``guestfish``.

The file system drivers run in that VM, never in this machine's kernel; the VM and guestfish run in process and network
namespaces of their own, where those can be had. Nothing that comes from the disk becomes part of a command unless it is
a plain path.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from bootpoint_common.errors import BootpointError, Code, error

#: Seconds until the VM has answered: under emulation on a loaded machine it takes a minute, with /dev/kvm some seconds.
ANSWER_TIMEOUT = 600.0

#: What guestfish prints after an answer.
END = "=== bootpoint ==="

#: Devices and mount points as they may become words of a command. guestfish knows quotes, pipes and a shell.
_DEVICE = re.compile(r"/dev/[A-Za-z0-9][A-Za-z0-9_.+/-]*")
_MOUNT_POINT = re.compile(r"/(?:[A-Za-z0-9_@.+-]+(?:/[A-Za-z0-9_@.+-]+)*)?")

#: A partition of a disk, as the VM names it: disks in the order in which they were given.
_PARTITION = re.compile(r"/dev/[a-z]d(?P<disk>[a-z])(?P<number>\d*)")

#: What ``list-filesystems`` calls what holds no files.
_NO_FILES = ("unknown", "swap", "")

#: KVM's request to make a VM: _IO(0xAE, 0x01) of Linux's <linux/kvm.h>.
_KVM_CREATE_VM = 0xAE01


def kvm_works() -> bool:
    """Say whether this machine runs VMs with hardware help; a /dev/kvm that opens may still not."""
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(device, _KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(device)
    return True


class Appliance:
    """A running guestfish; made by `appliance`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str, *, optional: bool = False) -> list[str] | None:
        """Do a command and return the lines that it prints.

        Args:
            command: Composed of constants, and of words that fit `_DEVICE` or `_MOUNT_POINT`.
            optional: It may fail; None then.

        Raises:
            RetryableError: ``target_write_error``: it failed, or the VM ended.
        """
        self._send(f"{'-' if optional else ''}{command}\necho '{END}'\n")
        lines: list[str] = []
        timer = threading.Timer(ANSWER_TIMEOUT, self._process.kill)
        timer.start()
        try:
            while (line := self._line()) != END:
                if line is None:
                    raise _failed(command, lines)
                lines.append(line)
        finally:
            timer.cancel()
        if any("libguestfs: error:" in line for line in lines):
            if not optional:
                raise _failed(command, lines)
            return None
        return lines

    def serve(self, directory: Path) -> None:
        """Show what is mounted within at a directory of this machine, and return at once.

        Raises:
            RetryableError: ``target_write_error``.
        """
        self.ask(f'mount-local {_quoted(str(directory))} readonly:true "options:nosuid,nodev,noexec"')
        self._send("mount-local-run\n")
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self) -> None:
        """Return when it has ended, which it does when the directory is unmounted."""
        if self._process.stdout is not None:
            for _line in self._process.stdout:
                pass  # a word for each file that isn't there: unread, they would hold everything up
        self._process.wait()

    def _send(self, text: str) -> None:
        if self._process.stdin is None:
            raise ValueError("guestfish was started without a standard input")
        with contextlib.suppress(BrokenPipeError):  # it ended: the answer, which is none, says so
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def _line(self) -> str | None:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        return line.rstrip("\n") if line else None


def _failed(command: str, lines: Sequence[str]) -> BootpointError:
    said = "; ".join(lines[-3:]) or "it ended"
    return error(Code.TARGET_WRITE_ERROR, f"libguestfs could not {command.split(maxsplit=1)[0]}: {said[-500:]}")


def _quoted(path: str) -> str:
    """Write a path of the operator's as one word."""
    if not path.isprintable():
        raise error(Code.SPEC_INVALID, f"{path!r} can't be a mount point: it has signs that can't be printed")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


@contextlib.contextmanager
def appliance(sockets: Sequence[str], *, emulated: bool) -> Iterator[Appliance]:
    """Start the VM over shared disks, read-only; it ends with the block, and with this process whatever ends that.

    Args:
        sockets: Unix sockets of NBD servers, in the disks' order.
        emulated: Run it without hardware help.

    Raises:
        FatalError: ``host_unsupported``: this machine lacks libguestfs.
        RetryableError: ``target_write_error``: it doesn't start.
    """
    if shutil.which("guestfish") is None:
        hint = "install libguestfs-tools (Debian) or guestfs-tools (Red Hat)"
        raise error(Code.HOST_UNSUPPORTED, "this machine lacks libguestfs's guestfish", hint=hint)
    disks = [word for path in sockets for word in ("--format=raw", "-a", f"nbd:///?socket={path}")]
    settings = {"LIBGUESTFS_BACKEND": "direct", **({"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"} if emulated else {})}
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *_apart(), "guestfish", "--ro", *disks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **settings},
        cwd="/",
        text=True,
        errors="replace",
    )
    try:
        started = Appliance(process)
        started.ask("run")
        yield started
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _apart() -> list[str]:
    """Return what puts a command into namespaces of its own; mounts stay shared, for the operator is to see one."""
    words = ["unshare", "--pid", "--net", "--fork", "--kill-child", "--"]
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if tried.returncode == 0 else []


def mount_all(started: Appliance, slots: Sequence[str]) -> list[tuple[str, str]]:
    """Mount what there is within the VM: an operating system as it mounts itself, else each file system by itself.

    Args:
        started: The VM.
        slots: Names of the disks, in their order.

    Returns:
        (path below the root, device) of each file system that could be mounted.
    """
    roots = started.ask("inspect-os") or []
    if len(roots) == 1 and _DEVICE.fullmatch(roots[0]):
        found = _mount_system(started, roots[0])
        if found:
            return found
    return _mount_each(started, slots)


def _mount_system(started: Appliance, root: str) -> list[tuple[str, str]]:
    places = {}
    for line in started.ask(f"inspect-get-mountpoints {root}", optional=True) or []:
        place, _, device = line.partition(": ")
        if _MOUNT_POINT.fullmatch(place) and _DEVICE.fullmatch(device):
            places[place] = device
    found: list[tuple[str, str]] = []
    for place in sorted(places, key=len):
        # What lies on a root that can't be mounted has no place.
        if (found or place == "/") and started.ask(f"mount-ro {places[place]} {place}", optional=True) is not None:
            found.append((place, places[place]))
    return found


def _mount_each(started: Appliance, slots: Sequence[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    made: set[str] = set()
    for line in started.ask("list-filesystems") or []:
        device, _, kind = line.partition(": ")
        if not _DEVICE.fullmatch(device) or kind.strip() in _NO_FILES:
            continue
        place = _place_of(device, slots)
        for path in (place.rsplit("/", 1)[0], place):
            if path not in made:
                started.ask(f"mkmountpoint {path}")
                made.add(path)
        if started.ask(f"mount-ro {device} {place}", optional=True) is not None:
            found.append((place, device))
    return found


def _place_of(device: str, slots: Sequence[str]) -> str:
    """Return where a file system is shown: /<slot>/<partition>, or /lvm/<group>-<volume>."""
    partition = _PARTITION.fullmatch(device)
    number = ord(partition["disk"]) - ord("a") if partition else len(slots)
    if partition is not None and number < len(slots):
        return f"/{slots[number]}/{partition['number'] or 'disk'}"
    return f"/lvm/{device.removeprefix('/dev/').replace('/', '-')}"
