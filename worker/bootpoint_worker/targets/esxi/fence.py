"""Servers of this machine, by the file that they write to: a later claim ends those of the earlier ones for certain.

Each has a directory of its own below that of its file, with its number and the time of its start: a worker that died
leaves both behind, and any process of the same user may end what is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bootpoint_common.errors import Code, error

if TYPE_CHECKING:
    from bootpoint_worker.targets.esxi.host import Host

#: Seconds within which a killed process has to be gone.
KILL_TIMEOUT = 10.0


def end_writers(host: Host, file: str) -> None:
    """End every server of this machine that writes to a file, and wait until all are gone."""
    for directory in place_of(host, file).iterdir():
        pid = _pid(directory)
        if pid is not None:
            _kill(pid)
        shutil.rmtree(directory, ignore_errors=True)


def servers() -> list[int]:
    """Return the processes of all servers that this user has on this machine."""
    found = (_pid(path) for path in base().glob("*/*"))
    return [pid for pid in found if pid is not None]


def enlist(directory: Path, pid: int) -> None:
    """Write down which process a directory belongs to."""
    (directory / "pid").write_text(f"{pid} {_started(pid)}")


def base() -> Path:
    """Return the directory of all servers of this user on this machine."""
    path = Path(tempfile.gettempdir()) / f"bootpoint-vddk-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or path.is_symlink():
        raise error(Code.HOST_UNSUPPORTED, f"{path} is not ours alone", hint=f"remove {path}", value=str(path))
    return path


def place_of(host: Host, file: str | None) -> Path:
    """Return the directory of the servers that write to a file, or of all readers."""
    access = host.access
    what = f"{access.address}:{access.port} {file}" if file is not None else "readers"
    path = base() / hashlib.sha256(what.encode()).hexdigest()[:16]
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _pid(directory: Path) -> int | None:
    """Return the process of a server that still runs: a number may have been given to another process since."""
    try:
        pid, started = (directory / "pid").read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if _started(int(pid)) == started else None


def _started(pid: int) -> str | None:
    """Return when a process was started, in ticks since the boot (proc(5), field 22 of ``stat``); None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _kill(pid: int) -> None:
    started = _started(pid)
    deadline = time.monotonic() + KILL_TIMEOUT
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while started is not None and _started(pid) == started:
        if time.monotonic() > deadline:
            raise error(Code.BUSY, f"process {pid}, which writes to a disk, does not end")
        time.sleep(0.01)
