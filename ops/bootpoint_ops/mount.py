"""Mounting a boot point read-only on this machine: what the commands do; the mount itself is held by `mounting`.

For each mount the state directory has ``mounts/<digest of the directory>.json``, which names the holder, and its log::

    bootpoint point mount ──starts──► holder ──► reference, session, shared sockets, guestfish ──FUSE──► DIR
    bootpoint point umount ──umount DIR──► guestfish ends ──► holder ends, and takes all of it back
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_common.store.request import from_json

#: Seconds within which a holder ends once its directory is unmounted; then it is told to, and then it is killed.
END_TIMEOUT = 60.0

#: Seconds between two looks whether it has.
INTERVAL = 0.05


class Order(msgspec.Struct, kw_only=True):
    """What a holder is told on its standard input.

    Attributes:
        job: Name of the job.
        point: Name of the point, or ``latest``.
        host: Which target, when the job has several.
        slot: Which disk; None for all.
        directory: Where to mount.
        secrets: Credentials that are not saved.
    """

    job: str
    point: str
    host: str | None
    slot: str | None
    directory: str
    secrets: dict[str, str]


class Record(msgspec.Struct, kw_only=True):
    """A mount, as the state directory has it.

    Attributes:
        directory: Where.
        pid: The holder.
        born: When that began, in the kernel's clock ticks: a later process may have its number.
        job: The job.
        point: The point.
        host: Its host.
    """

    directory: str
    pid: int
    born: int
    job: str
    point: str
    host: str


class Answer(msgspec.Struct, kw_only=True):
    """What a holder says once: that it is mounted and what, or why not.

    Attributes:
        point: The point.
        mounted: Path below the directory, and the device within the point.
        problem: An error, as `BootpointError.as_json` writes it.
    """

    point: str | None = None
    mounted: tuple[tuple[str, str], ...] = ()
    problem: dict[str, object] | None = None


def record_path(state: Path, directory: str) -> Path:
    """Return where a mount is written down."""
    return state / "mounts" / f"{hashlib.sha256(directory.encode()).hexdigest()[:16]}.json"


def born(pid: int) -> int | None:
    """Return when a process began, in clock ticks; None when there is none."""
    try:
        # proc(5): the 22nd field; the second, a name in parentheses, may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None


def begin(state: Path, order: Order) -> Answer:
    """Mount a point, and return when its files are there.

    Raises:
        UsageError: ``spec_invalid``: the directory isn't an empty one of its own.
        BootpointError: What the holder met.
    """
    directory = Path(order.directory)
    if os.path.ismount(directory) or any(directory.iterdir()):
        raise error(
            Code.SPEC_INVALID, f"{directory} is not empty, or something is mounted there", key="DIR",
            value=str(directory), hint="make an empty directory for it",
        )  # fmt: skip
    record = record_path(state, order.directory)
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with record.with_suffix(".log").open("wb") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "bootpoint_ops.mounting"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    said = b""
    try:
        if holder.stdin is not None and holder.stdout is not None:
            with holder.stdin, contextlib.suppress(BrokenPipeError):
                holder.stdin.write(msgspec.json.encode(order))
            with holder.stdout:
                said = holder.stdout.readline()
    except BaseException:
        holder.terminate()
        holder.wait()
        raise
    if not said:
        holder.wait()
        log_file = record.with_suffix(".log")
        text = f"the mount's process ended; its log is {log_file}"
        raise error(Code.BUSY, text, hint=f"read {log_file}")
    answer = msgspec.json.decode(said, type=Answer)
    if answer.problem is not None:
        holder.wait()
        raise from_json(answer.problem)
    holder.returncode = 0  # it goes on by itself: nobody here waits for it
    return answer


def end(state: Path, directory: str) -> Record | None:
    """Unmount a point, and return when nothing of the mount is left.

    Returns:
        What was mounted; None where only the mount was left of it.

    Raises:
        UsageError: ``spec_invalid``: bootpoint has nothing mounted there.
        RetryableError: ``busy``: somebody works in it.
    """
    path = record_path(state, directory)
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        record = None
    if record is None and not mounted_by_fuse(directory):
        raise error(
            Code.SPEC_INVALID, f"bootpoint has no boot point mounted at {directory}", key="DIR", value=directory
        )
    if mounted_by_fuse(directory):
        unmount(directory)
    if record is not None:
        _end_holder(record)
    if mounted_by_fuse(directory):
        unmount(directory)
    for left in (path, path.with_suffix(".log")):
        left.unlink(missing_ok=True)
    return record


def mounted_by_fuse(directory: str) -> bool:
    """Say whether a file system of a process is mounted at a directory, be that process alive or not."""
    # proc(5): blanks and the like are written in octal.
    written = directory.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split(" ")[1:3] == [written, "fuse"] for line in lines)


def unmount(directory: str, *, lazily: bool = False) -> None:
    """Unmount a directory.

    Raises:
        RetryableError: ``busy``.
    """
    command = ["umount"] if os.geteuid() == 0 else ["fusermount", "-u"]
    words = [*command, *(["-l" if command == ["umount"] else "-z"] if lazily else []), directory]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0 and mounted_by_fuse(directory):
        raise error(
            Code.BUSY, f"{directory} can't be unmounted: {done.stderr.strip()}", key="DIR", value=directory,
            hint="leave it in every shell and program, then try again",
        )  # fmt: skip


def _end_holder(record: Record) -> None:
    def gone() -> bool:
        return born(record.pid) != record.born

    if _waited(gone, END_TIMEOUT):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        if _waited(gone, END_TIMEOUT):
            return


def _waited(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(INTERVAL)
    return True
