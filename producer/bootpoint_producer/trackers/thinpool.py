"""Thin pools of the device mapper: their volumes, how full they are, and in which blocks two volumes differ.

A pool's metadata changes under whoever reads it. So the kernel is asked to hold a *metadata snapshot* while
``thin_delta`` compares two volumes in it. A pool has one place for such a snapshot, and keeps it across reboots: what
was reserved must be released, also after the agent was killed in between. Hence a note in the agent's directory::

    note written ── reserve ── root of the snapshot noted ── thin_delta ── release ── note removed

A note that is found at the next comparison is of an agent that died; its snapshot is released if it is still that one.

The kernel's side: Documentation/admin-guide/device-mapper/thin-provisioning.rst.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bootpoint_common.extent import Extent
from bootpoint_common.units import SECTOR

from .thindelta import read_delta

_log = logging.getLogger(__name__)

#: Seconds that a command may take: a busy pool commits its metadata first.
_PATIENCE = 120.0

#: Seconds that ``thin_delta`` may take: it reads the mappings of both volumes, some 10,000 a second on a slow disk.
_DELTA_PATIENCE = 3600.0


@dataclass(frozen=True, slots=True)
class ThinVolume:
    """A thin volume that is active.

    Attributes:
        name: Its name for the device mapper.
        uuid: Its UUID for the device mapper; LVM's begin with ``LVM-``.
        device_id: Its number in the pool.
        pool: Device number of its pool, ``MAJOR:MINOR``.
        pool_uuid: Its pool's UUID for the device mapper.
        size_bytes: Its size.
    """

    name: str
    uuid: str
    device_id: int
    pool: str
    pool_uuid: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How a pool is.

    Attributes:
        metadata_percent: How full its metadata is.
        data_percent: How full its data is.
        held_root: Where the metadata snapshot that somebody holds begins; None where nobody does.
        mode: ``rw``, ``ro``, ``out_of_data_space`` or ``Fail``.
        needs_check: Whether its metadata must be checked before it can be written again.
    """

    metadata_percent: float
    data_percent: float
    held_root: int | None
    mode: str
    needs_check: bool

    @property
    def trouble(self) -> str | None:
        """What is wrong with the pool, in words; None where nothing is."""
        if self.mode != "rw":
            return f"its thin pool is in the mode {self.mode}"
        return "its thin pool's metadata needs a check" if self.needs_check else None


def run(*command: str, patience: float = _PATIENCE, output: BinaryIO | None = None) -> str:
    """Run a command of the system and return what it printed.

    Args:
        command: Program and arguments.
        patience: Seconds that it may take.
        output: A file that gets what it prints, and then nothing is returned.

    Raises:
        OSError: It is missing, failed, or took too long; the message says which.
    """
    try:
        done = subprocess.run(
            command, check=False, stdout=output or subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            text=True, errors="replace", timeout=patience, env=_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} took more than {patience:g} s") from None
    if done.returncode:
        raise OSError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout or ""


def unfit_tool() -> str | None:
    """Say which program lacks what thin volumes need; None where all will do."""
    path = _environment()["PATH"]
    for tool in ("lvm", "thin_delta"):
        if shutil.which(tool, path=path) is None:
            return f"{tool} is not installed"
    said = run("thin_delta", "--help")
    if any(option not in said for option in ("--metadata-snap", "--snap1", "--snap2")):
        return "thin_delta is too old to compare volumes of an active pool"
    return None


def thin_volume(path: Path) -> ThinVolume | None:
    """Return the thin volume that a path leads to; None where it leads to something else.

    Raises:
        OSError: It can't be said.
    """
    found = path.stat()
    if not stat.S_ISBLK(found.st_mode):
        return None
    folder = Path(f"/sys/dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    try:
        name, uuid = (folder / "dm/name").read_text().strip(), (folder / "dm/uuid").read_text().strip()
    except FileNotFoundError:
        return None
    fields = run("dmsetup", "table", "--", name).split()
    if len(fields) < 5 or fields[2] != "thin":
        return None
    pool_uuid = Path(f"/sys/dev/block/{fields[3]}/dm/uuid").read_text().strip()
    return ThinVolume(name, uuid, int(fields[4]), fields[3], pool_uuid, int(fields[1]) * SECTOR)


def pool_device(uuid: str) -> str | None:
    """Return the device number of an active pool, ``MAJOR:MINOR``, by its UUID for the device mapper."""
    for file in Path("/sys/block").glob("dm-*/dm/uuid"):
        try:
            if file.read_text().strip() == uuid:
                return (file.parents[1] / "dev").read_text().strip()
        except OSError:
            continue  # removed meanwhile
    return None


class ThinPool:
    """A pool that is active.

    Args:
        device: Its device number, ``MAJOR:MINOR``.
        notes: Where it is noted that a metadata snapshot is ours; made when it isn't there.
    """

    def __init__(self, device: str, notes: Path) -> None:
        folder = Path(f"/sys/dev/block/{device}/dm")
        self._name = (folder / "name").read_text().strip()
        self._uuid = (folder / "uuid").read_text().strip()
        self._notes = notes

    def status(self) -> PoolStatus:
        """Return how it is.

        Raises:
            OSError: It doesn't say so.
        """
        text = run("dmsetup", "status", "--", self._name)
        fields = text.split()
        try:
            if fields[2] != "thin-pool":
                raise ValueError(fields[2])
            if fields[3] == "Fail":
                return PoolStatus(100.0, 100.0, None, "Fail", needs_check=True)
            (used, of), (data, of_data) = (tuple(int(part) for part in field.split("/")) for field in fields[4:6])
            held = None if fields[6] == "-" else int(fields[6])
            return PoolStatus(100.0 * used / of, 100.0 * data / of_data, held, fields[7], "needs_check" in fields)
        except (IndexError, ValueError, ZeroDivisionError):
            raise OSError(f"the pool {self._name} says of itself: {text.strip()!r}") from None

    def delta(self, left: int, right: int) -> Iterator[Extent]:
        """Yield where a volume of the pool differs from another one, or may, ascending.

        Args:
            left: Number of the one.
            right: Number of the other.

        Raises:
            OSError: The pool holds no metadata snapshot for us, or ``thin_delta`` failed.
            ValueError: What ``thin_delta`` printed can't be understood.
        """
        fields = run("dmsetup", "table", "--", self._name).split()
        metadata, block_bytes = Path(f"/dev/block/{fields[3]}").resolve(), int(fields[5]) * SECTOR
        command = ["thin_delta", "--metadata-snap", "--snap1", str(left), "--snap2", str(right), str(metadata)]
        with tempfile.TemporaryFile(dir=_folder(self._notes)) as printed:
            # Read only after the release: writes to the pool cost more while its metadata is held.
            with self._exclusive(), self._metadata_snapshot():
                run(*command, patience=_DELTA_PATIENCE, output=printed)
            printed.seek(0)
            yield from read_delta(printed, left=left, right=right, block_bytes=block_bytes)

    @property
    def _note(self) -> Path:
        return self._notes / f"{self._uuid}.held"

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other processes of this agent from what a note speaks of."""
        with (_folder(self._notes) / f"{self._uuid}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _metadata_snapshot(self) -> Iterator[None]:
        self._release_leftover()
        if self.status().held_root is not None:
            raise OSError(f"somebody else holds the metadata snapshot of the thin pool {self._name}")
        self._write_note(None)
        try:
            run("dmsetup", "message", self._name, "0", "reserve_metadata_snap")
            self._write_note(self.status().held_root)
            yield
        finally:
            self._release()

    def _release_leftover(self) -> None:
        if self._note.exists():
            _log.warning("a dead agent's metadata snapshot is released", extra={"pool": self._name})
            self._release()

    def _release(self) -> None:
        try:
            noted: int | None = json.loads(self._note.read_text())["root"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError):
            noted = None  # killed while it was written: a metadata snapshot that is held now was reserved by us
        held = self.status().held_root
        if held is not None and noted in (None, held):
            run("dmsetup", "message", self._name, "0", "release_metadata_snap")
        self._note.unlink()

    def _write_note(self, root: int | None) -> None:
        with self._note.open("w") as file:
            file.write(json.dumps({"root": root}))
            file.flush()
            os.fsync(file.fileno())


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _environment() -> dict[str, str]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return {**os.environ, "LC_ALL": "C", "PATH": path, "LVM_SUPPRESS_FD_WARNINGS": "1"}
