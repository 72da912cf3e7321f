"""Runs the scripts of a job on the source machine.

A script gets a clean environment (never the agent's own, which may hold secrets), its own process group, and a
time limit; what it prints is kept, up to a bound, for the run's log.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pwd
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Script

#: Bytes of output that are kept: the first half of it, and the last, where the error usually stands.
OUTPUT_LIMIT = 64 * 1024

#: Seconds between the polite end of a script that took too long and the end by force.
GRACE_SECONDS = 2.0

#: Seconds that output may still come after the script ended. A process that it left in the background may hold
#: the pipe for ever; its output is read on, and no longer kept.
_DRAIN_SECONDS = 0.5

#: Seconds between two looks at whether the run was cancelled.
_STOP_SECONDS = 0.1

#: Exit codes of a shell for a program that isn't there, and for one that can't be run.
_NOT_FOUND, _NOT_RUNNABLE = 127, 126

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Stage(enum.StrEnum):
    """When a script runs."""

    BEFORE_SNAPSHOT = "before_snapshot"
    AFTER_SNAPSHOT = "after_snapshot"
    AFTER_POINT = "after_point"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a script ended, as a run's log shows it.

    Attributes:
        stage: When it ran.
        exit_code: Its exit code; None if it was ended by a signal, ours or another.
        duration_seconds: How long it ran.
        output: What it printed, standard output and errors together, at most `OUTPUT_LIMIT` bytes and a note.
        timed_out: Whether it was ended for taking too long.
        stopped: Whether it was ended because the run was cancelled.
    """

    stage: Stage
    exit_code: int | None
    duration_seconds: float
    output: str
    timed_out: bool = False
    stopped: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.exit_code == 0 and not self.timed_out and not self.stopped

    def failure(self, script: Script) -> BootpointError | None:
        """Return the error `script_failed` (or `cancelled`), or None if it succeeded."""
        if self.succeeded:
            return None
        program = script.run[0]
        if self.stopped:
            return error(Code.CANCELLED, f"the run was cancelled while {program} ran", key=f"scripts.{self.stage}")
        how = f"ended with exit code {self.exit_code}"
        if self.timed_out:
            how = f"did not end within {script.timeout_seconds:g} s"
        elif self.exit_code is None:
            how = "was ended by a signal"
        last = self.output.strip().rpartition("\n")[2][:200]
        said = f": {last}" if last else ""
        return error(
            Code.SCRIPT_FAILED, f"{self.stage} script {program} {how}{said}", key=f"scripts.{self.stage}", value=program
        )


class Begun(msgspec.Struct, frozen=True):
    """A script that runs, for whoever has to end it after its agent died.

    Attributes:
        group: Its process group, which is the id of its first process.
        at: When that began, in ticks since the machine's start: another one may have its number by now.
    """

    group: int
    at: int


def run_script(
    script: Script,
    stage: Stage,
    environment: Mapping[str, object],
    *,
    stop: threading.Event | None = None,
    on_stop: Callable[[], None] | None = None,
    on_start: Callable[[Begun], None] | None = None,
) -> Outcome:
    """Run one script to its end.

    Args:
        script: What to run.
        stage: When it runs.
        environment: What the script is told: ``job``, ``run``, ``point``, ``consistency``; each becomes
            ``BOOTPOINT_JOB`` and so on, None becomes empty.
        stop: Ends the script when set.
        on_stop: Called when ``stop`` is set, once; the script then goes on to its end, or its time limit.
        on_start: Called as soon as it runs; where that fails, it is ended.

    Returns:
        How it ended. A program that can't be started is an outcome too: exit code 127 or 126 with the reason.
    """
    started = time.monotonic()
    try:
        account = pwd.getpwnam(script.user)
        process = _start(script, account, _environment(account, stage, environment))
    except (KeyError, OSError, subprocess.SubprocessError) as exc:
        code = _NOT_FOUND if isinstance(exc, FileNotFoundError) else _NOT_RUNNABLE
        reason = f"there is no user {script.user!r} here" if isinstance(exc, KeyError) else str(exc)
        return Outcome(
            stage=stage,
            exit_code=code,
            duration_seconds=time.monotonic() - started,
            output=f"[bootpoint: can't start {script.run[0]}: {reason}]\n",
        )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    output = _Output(process.stdout)
    if on_start is not None and (began := _began(process.pid)) is not None:
        try:
            on_start(Begun(process.pid, began))
        except BaseException:
            _end_group(process)
            raise
    ended_by = _wait(process, started + script.timeout_seconds, stop, on_stop)
    text = output.text()
    if ended_by:
        text += f"[bootpoint: {ended_by}, ended after {time.monotonic() - started:.1f} s]\n"
    return Outcome(
        stage=stage,
        exit_code=process.returncode if process.returncode >= 0 and not ended_by else None,
        duration_seconds=time.monotonic() - started,
        output=text,
        timed_out=ended_by == "timeout",
        stopped=ended_by == "cancelled",
    )


def _start(script: Script, account: pwd.struct_passwd, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    switch = account.pw_uid != os.geteuid()
    return subprocess.Popen(
        list(script.run),
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=account.pw_uid if switch else None,
        group=account.pw_gid if switch else None,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid) if switch else None,
    )


def _environment(account: pwd.struct_passwd, stage: Stage, told: Mapping[str, object]) -> dict[str, str]:
    clean = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": "/bin/sh",
        "BOOTPOINT_STAGE": stage.value,
    }
    for name, value in told.items():
        clean[f"BOOTPOINT_{name.upper()}"] = "" if value is None else str(value)
    return clean


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    stop: threading.Event | None,
    on_stop: Callable[[], None] | None,
) -> str:
    """Wait for the end, or make one; returns why it was made, or nothing."""
    while True:
        left = deadline - time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, left if stop is None else min(left, _STOP_SECONDS)))
            return ""
        if stop is not None and stop.is_set():
            if on_stop is None:
                _end_group(process)
                return "cancelled"
            on_stop()
            stop = None
        if left <= 0:
            _end_group(process)
            return "timeout"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the script and all that it started in its process group, politely first."""
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    # Members of the group may have outlived its leader; the group's number is not reused while any lives.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def end_orphan(begun: Begun) -> None:
    """End a script whose agent has died, and all that it started in its process group; nothing where it has ended."""
    try:
        process = os.pidfd_open(begun.group)
    except ProcessLookupError:
        return
    try:
        if _began(begun.group) != begun.at:
            return
        for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
            _signal_group(begun.group, number)
            select.select([process], [], [], seconds)
    finally:
        os.close(process)


def _began(process: int) -> int | None:
    """Return when a process began, in ticks since the machine's start (proc(5): stat, field 22); None: it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


class _Output:
    """Reads a pipe to its end in a thread, so that the script never blocks, and keeps a bounded part of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="script output", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return what was kept; what comes after this call is read and forgotten."""
        self._thread.join(_DRAIN_SECONDS)
        with self._lock:
            self._closed = True
            kept = len(self._head) + len(self._tail)
            head, tail = bytes(self._head), bytes(self._tail)
        if kept < self._total:
            gap = f"\n[bootpoint: {self._total - kept} bytes left out]\n"
            return _text(head) + gap + _text(tail)
        return _text(head + tail)

    def _read(self) -> None:
        half = OUTPUT_LIMIT // 2
        with self._pipe:
            while data := os.read(self._pipe.fileno(), half):
                with self._lock:
                    if self._closed:
                        continue
                    self._total += len(data)
                    room = half - len(self._head)
                    self._head += data[:room]
                    self._tail += data[room:]
                    del self._tail[: max(0, len(self._tail) - half)]


def _text(output: bytes) -> str:
    """Return output as text; no database and no terminal takes a NUL."""
    return output.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
