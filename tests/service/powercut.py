"""A directory under which a test can cut the power.

::

    path            ext4, mounted
     └ /dev/loopN   turns the file system's barriers into fsync
        └ disk      a FUSE file that holds unsynced writes in memory (`powercut_fuse`, a process of its own)
           └ backing file: what a power cut leaves

A cut drops both caches: the kernel's, whose dirty pages never reach the FUSE file, and the FUSE file's own, of
which a random part survives.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from bootpoint_common.units import MiB
from tests.service.process import wait_for

#: Seconds that anything here may take before the test fails.
PATIENCE = 30.0

#: The program that serves the FUSE file.
DAEMON = Path(__file__).with_name("powercut_fuse.py")

#: As little background work as possible: what reaches the disk does so because somebody synced.
MOUNT_OPTIONS = "noatime,noinit_itable,errors=remount-ro"


class PowerCutStorage:
    """A mounted directory whose power can be cut; a context manager.

    Args:
        directory: Where its files go; must be empty or new.
        size_bytes: Size of the file system.

    Attributes:
        path: The mounted directory.
        kept_bytes: Unsynced bytes that survived the last cut.
        lost_bytes: Unsynced bytes that the last cut took.
    """

    def __init__(self, directory: Path, *, size_bytes: int = 512 * MiB) -> None:
        self.path = directory / "mnt"
        self.kept_bytes = 0
        self.lost_bytes = 0
        self._size_bytes = size_bytes
        self._backing = directory / "backing"
        self._fuse = directory / "fuse"
        self._daemon: subprocess.Popen[str] | None = None
        self._loop: str | None = None

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        self._fuse.mkdir()
        with self._backing.open("wb") as backing:
            backing.truncate(self._size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-J", "size=8", "-E", "nodiscard", str(self._backing))
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def daemon_pid(self) -> int:
        """Process that serves the FUSE file; killing it is a cut that keeps nothing unsynced."""
        assert self._daemon is not None
        return self._daemon.pid

    def cut(self, rng: Random) -> None:
        """Cut the power and put it on again: what wasn't synced is lost but for a random part.

        Whatever used the directory must have been killed before.

        Args:
            rng: Decides which unsynced sectors survive.
        """
        self.kept_bytes = self.lost_bytes = 0
        assert self._daemon is not None
        with suppress(BrokenPipeError):  # a daemon that was killed has forgotten everything already
            answer = self._command(f"cut {rng.getrandbits(32)}")
            if answer:
                self.kept_bytes, self.lost_bytes = map(int, answer.split()[1:])
        self._detach()
        self._attach()

    def check(self) -> str:
        """Return what is wrong with the file system by e2fsck, looked at unmounted; empty when nothing is."""
        _run("umount", str(self.path))
        assert self._loop is not None
        try:
            done = subprocess.run(["e2fsck", "-f", "-n", self._loop], capture_output=True, text=True)
        finally:
            self._mount()
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def close(self) -> None:
        """Unmount and detach everything; may be called twice."""
        self._detach()

    def _attach(self) -> None:
        self._daemon = subprocess.Popen(
            [sys.executable, str(DAEMON), str(self._fuse), str(self._backing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_for(self._serves, "the FUSE file", PATIENCE)
        self._loop = _run("losetup", "--find", "--show", str(self._fuse / "disk")).strip()
        self._mount()

    def _mount(self) -> None:
        assert self._loop is not None
        _run("mount", "-t", "ext4", "-o", MOUNT_OPTIONS, self._loop, str(self.path))

    def _detach(self) -> None:
        # All of it lets go of a mount that somebody still has open, too: the daemon's death ends the rest.
        _unmount(self.path)
        if self._loop is not None:
            _try("losetup", "--detach", self._loop)
            self._loop = None
        _unmount(self._fuse)
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.communicate()
            self._daemon = None

    def _command(self, line: str) -> str:
        assert self._daemon is not None
        assert self._daemon.stdin is not None
        assert self._daemon.stdout is not None
        self._daemon.stdin.write(line + "\n")
        self._daemon.stdin.flush()
        return self._daemon.stdout.readline()

    def _serves(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, "the FUSE daemon ended"
        return os.path.ismount(self._fuse) and (self._fuse / "disk").exists()


def _unmount(path: Path) -> None:
    """Unmount a directory, lazily where something still holds it; nothing when it isn't mounted."""
    if os.path.ismount(path) and not _try("umount", str(path)):
        _run("umount", "--lazy", str(path))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _try(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
