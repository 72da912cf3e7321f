"""Who uses a raw file or a block device: what has it mounted, and who has it open for writing.

Read from /proc and /sys. A disk's users are found through everything that stands on it::

    raw file ◄─ loop device ◄─ partition ◄─ LVM, RAID, dm-crypt ◄─ mounted, swapped to, or open for writing
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SYS = Path("/sys")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system that lies on a disk and can be written to.

    Attributes:
        point: Where it is mounted, as the agent sees it.
        fs: Its type.
        order: Mounts with a higher number were made later.
        device: Number by which the kernel knows it: its device's, or one of its own (btrfs).
    """

    point: str
    fs: str
    order: int = 0
    device: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Who uses a disk.

    Attributes:
        mounts: Its writable mounts in the agent's mount namespace, in the order in which they were mounted.
        others: Every other user, in words; a freeze doesn't hold these.
        swaps: Use as swap space, in words: it writes at any time, and what it writes is of no use to anybody later.
    """

    mounts: tuple[Mount, ...] = ()
    others: tuple[str, ...] = ()
    swaps: tuple[str, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether nobody can write to the disk as things stand."""
        return not self.mounts and not self.others and not self.swaps

    def words(self) -> str:
        """Say who uses it."""
        return "; ".join([*(f"mounted at {mount.point}" for mount in self.mounts), *self.swaps, *self.others])


@dataclass(frozen=True, slots=True)
class _Stack:
    """A disk and everything that stands on it: files as (device, inode), block devices by number."""

    files: set[tuple[int, int]]
    devices: set[int]


def usage(path: Path) -> Usage:
    """Find out who uses a raw file or a block device.

    Raises:
        OSError: There is no such file.
    """
    return _usage(_stack(path.stat()))


def device_usage(device: int) -> Usage:
    """Find out who uses a block device, by its number."""
    stack = _Stack(set(), set(_above(device)))
    _add_loops(stack)
    return _usage(stack)


def _usage(stack: _Stack) -> Usage:
    mounts, foreign = _mounts(stack.devices)
    return Usage(tuple(mounts), (*foreign, *_writers(stack)), tuple(_swaps(stack.devices)))


def write_counter(path: Path) -> tuple[int, ...]:
    """Return numbers that change when somebody writes: a file's times, or a device's count of writes.

    Raises:
        OSError: There is no such file.
    """
    found = path.stat()
    if not stat.S_ISBLK(found.st_mode):
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return device_counter(found.st_rdev)


def device_counter(device: int) -> tuple[int, ...]:
    """Return numbers that change when somebody writes to a block device.

    Raises:
        OSError: There is no such device.
    """
    fields = (_device(device) / "stat").read_text().split()
    # Documentation/block/stat.rst: 7th: sectors written, 12th: discards. Not the 5th: it counts flushes of nothing.
    return tuple(int(fields[at]) for at in (6, 11) if at < len(fields))


def _stack(found: os.stat_result) -> _Stack:
    stack = _Stack(set(), set())
    if stat.S_ISBLK(found.st_mode):
        stack.devices.update(_above(found.st_rdev))
    else:
        stack.files.add((found.st_dev, found.st_ino))
    _add_loops(stack)
    return stack


def _add_loops(stack: _Stack) -> None:
    """Add the loop devices that stand on it, and what stands on them."""
    while True:
        loops = {number for number, backing in _loops() if _backed(backing, stack)} - stack.devices
        if not loops:
            return
        for number in loops:
            stack.devices.update(_above(number))


def _backed(backing: str, stack: _Stack) -> bool:
    with contextlib.suppress(OSError):
        found = Path(backing).stat()
        return found.st_rdev in stack.devices or (found.st_dev, found.st_ino) in stack.files
    return False


def _loops() -> Iterator[tuple[int, str]]:
    for backing in _SYS.glob("block/loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached in this moment
            yield _number(backing.parent.parent), _lines(backing).removesuffix("\n")


def _above(number: int) -> Iterator[int]:
    """Return a device, its partitions, and what holds any of them."""
    yield number
    folder = _device(number)
    children = [part.parent for part in folder.glob("*/partition")]
    with contextlib.suppress(OSError):
        children += [(folder / "holders" / holder.name).resolve() for holder in (folder / "holders").iterdir()]
    for child in children:
        with contextlib.suppress(OSError):
            yield from _above(_number(child))


def _device(number: int) -> Path:
    return (_SYS / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").resolve()


def _number(folder: Path) -> int:
    major, minor = (folder / "dev").read_text().strip().split(":")
    return os.makedev(int(major), int(minor))


def _mounts(devices: set[int]) -> tuple[list[Mount], list[str]]:
    """Return writable mounts of the agent's own mount namespace, and those of others in words."""
    mounts: dict[int, Mount] = {}
    foreign: dict[int, str] = {}
    own = _namespace("self")
    seen = set()
    for process in ["self", *_processes()]:
        namespace = _namespace(process)
        if namespace is None or namespace in seen:
            continue
        seen.add(namespace)
        for number, mount in _writable_mounts(process, devices):
            if namespace == own:
                mounts.setdefault(number, mount)
            elif number not in mounts:
                foreign.setdefault(number, f"mounted at {mount.point} for process {process}")
    return list(mounts.values()), list(foreign.values())


def _writable_mounts(process: str, devices: set[int]) -> Iterator[tuple[int, Mount]]:
    """Return (number of the file system, mount); a file system that is read-only as a whole changes nothing."""
    try:
        lines = _lines(_PROC / process / "mountinfo").removesuffix("\n").split("\n")
    except OSError:  # the process has ended
        return
    # proc(5): id parent major:minor root point options [optional …] - type source super-options
    for order, line in enumerate(lines):
        before, _, after = line.partition(" - ")
        fields, (fs, source, options) = before.split(" "), after.split(" ", 2)
        if "ro" in options.split(","):
            continue
        major, minor = fields[2].split(":")
        number = os.makedev(int(major), int(minor))
        if number in devices or _members(fs, _text(source)) & devices:
            yield number, Mount(_text(fields[4]), fs, order, number)


def _members(fs: str, source: str) -> set[int]:
    """Return the devices of a file system whose mounts have a number of their own (btrfs), one or several."""
    with contextlib.suppress(OSError):
        found = Path(source).stat()
        if not stat.S_ISBLK(found.st_mode):
            return set()
        if fs == "btrfs":
            name = _device(found.st_rdev).name
            for listed in _SYS.glob(f"fs/btrfs/*/devices/{name}"):
                return {_number(member.resolve()) for member in listed.parent.iterdir()}
        return {found.st_rdev}
    return set()


def _swaps(devices: set[int]) -> Iterator[str]:
    for line in _lines(_PROC / "swaps").removesuffix("\n").split("\n")[1:]:
        path = _text(line.split(maxsplit=1)[0])
        with contextlib.suppress(OSError):
            if Path(path).stat().st_rdev in devices:
                yield f"used as swap space ({path})"


def _writers(stack: _Stack) -> Iterator[str]:
    """Return the processes that have something of the stack open for writing."""
    for process in _processes():
        try:
            with os.scandir(_PROC / process / "fd") as listed:
                descriptors = [entry.name for entry in listed]
        except PermissionError:
            yield f"process {process} can't be looked into (the agent isn't root)"
            return
        except OSError:  # the process has ended
            continue
        if any(_writes(process, descriptor, stack) for descriptor in descriptors):
            with contextlib.suppress(OSError):
                name = (_PROC / process / "comm").read_text(errors="replace").strip()
                yield f"open for writing by {name} (process {process})"


def _writes(process: str, descriptor: str, stack: _Stack) -> bool:
    try:
        link = _PROC / process / "fd" / descriptor
        if not str(link.readlink()).startswith("/"):  # a socket, a pipe
            return False
        found = link.stat()
        hit = (
            found.st_rdev in stack.devices
            if stat.S_ISBLK(found.st_mode)
            else (found.st_dev, found.st_ino) in stack.files
        )
        if not hit:
            return False
        for line in (_PROC / process / "fdinfo" / descriptor).read_text().splitlines():
            if line.startswith("flags:"):
                return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    except OSError:  # closed in this moment
        return False
    return True


def _processes() -> list[str]:
    with os.scandir(_PROC) as listed:
        return [entry.name for entry in listed if entry.name.isdigit()]


def _namespace(process: str) -> str | None:
    try:
        return str((_PROC / process / "ns" / "mnt").readlink())
    except OSError:
        return None


def _lines(path: Path) -> str:
    """Return a file of /proc or /sys that has names in it, which may hold any bytes."""
    return path.read_text(errors="surrogateescape")


def _text(field: str) -> str:
    """Undo the octal escapes of a field of mountinfo."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
