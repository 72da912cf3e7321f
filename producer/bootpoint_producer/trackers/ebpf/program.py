"""The program in the kernel, and the names by which it stays there while the agent is away.

::

    /sys/fs/bpf/bootpoint/<agent>-<digest of the program file>/
        disks                                 the map of maps: which disks are followed
        queue-program, queue-link, remap-…    what hears of writes
        disk-<major>-<minor>-<number>         the cells of a generation; the newest one is open

Another version of the program has another folder; those of earlier versions are removed, and what they followed is
scanned once. Another agent on the machine (``bootpoint up`` has one) has its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import library

#: Where the system mounts its BPF file system, and our folder in it.
PINS = Path("/sys/fs/bpf/bootpoint")

#: The program, as clang made it when bootpoint was built.
OBJECT = Path(__file__).with_name("writes.bpf.o")

_TYPES = Path("/sys/kernel/btf/vmlinux")
#: What /proc/mounts calls a BPF file system.
_FILE_SYSTEM = "bpf"
#: linux/capability.h
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39

_PROGRAMS = {"queue": "on_queue", "remap": "on_remap"}
_OLD_PROGRAMS = {"queue": "on_queue_of", "remap": "on_remap_of"}
_CELLS = re.compile(r"disk-(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Hearing:
    """How the program hears of writes.

    Attributes:
        links: Ids of its links; other ids mean that in between nothing was heard.
        missed: Events that the kernel has left out so far.
    """

    links: tuple[int, int]
    missed: int


class Program:
    """The program, loaded or not; used by one thread at a time.

    Args:
        pins: Folder in a BPF file system; `PINS` by default.
        file: The program file.
        owner: Names the agent, of letters and digits.
    """

    def __init__(self, pins: Path | None = None, file: Path = OBJECT, owner: str = "agent") -> None:
        self._pins = PINS if pins is None else pins
        self._file = file
        self._owner = owner
        self._refused: str | None = None

    def why_not(self) -> str | None:
        """Say why no disk at all can be followed; None where it is possible. Quick, and changes nothing."""
        if self._refused is not None:
            return self._refused
        if not self._file.exists():
            return f"this installation was built without {self._file.name}"
        if library.library() is None:
            return "libbpf.so.1 isn't installed"
        if not _TYPES.exists():
            return f"the kernel doesn't describe itself in {_TYPES}"
        if not is_mounted(self._pins.parent):
            return f"no BPF file system is mounted at {self._pins.parent}"
        if not _may():
            return "the agent needs CAP_BPF and CAP_PERFMON"
        return None

    def hearing(self) -> Hearing:
        """Return how the program hears of writes at the moment.

        Raises:
            OSError: It isn't loaded, or not wholly.
        """
        links, missed = [], 0
        for role in _PROGRAMS:
            with library.pinned(self._folder / f"{role}-link") as link:
                links.append(library.link_id(link))
            with library.pinned(self._folder / f"{role}-program") as program:
                missed += library.missed_events(program)
        return Hearing((links[0], links[1]), missed)

    def attach(self) -> Hearing:
        """See that the program hears of writes; where a part of it is missing, all is made anew, and no disk followed.

        Raises:
            OSError: The kernel refuses it.
        """
        with contextlib.suppress(OSError), library.pinned(self._folder / "disks"):
            return self.hearing()
        self.detach()
        self._folder.mkdir(mode=0o700, parents=True)
        wanted, unwanted = _PROGRAMS, _OLD_PROGRAMS
        if library.event_arguments("block_bio_queue") == 2:  # the queue before the bio: before Linux 5.11
            wanted, unwanted = unwanted, wanted
        try:
            loaded = library.Loaded(self._file, wanted, list(unwanted.values()))
        except OSError as failure:
            self._refused = f"the kernel refuses the program: {failure.strerror}"
            raise
        try:
            loaded.pin(self._folder)
        finally:
            loaded.close()
        return self.hearing()

    def detach(self) -> None:
        """Let the program, of whatever build, hear of nothing more: the kernel drops what has no name any more."""
        for pinned in self._pins.glob(f"{self._owner}-*"):
            shutil.rmtree(pinned)

    @contextmanager
    def disks(self) -> Iterator[int]:
        """Open the map of maps.

        Raises:
            OSError: It isn't there.
        """
        with library.pinned(self._folder / "disks") as descriptor:
            yield descriptor

    def generations(self, major: int, minor: int) -> dict[int, Path]:
        """Return where the generations of a disk are pinned, by number, ascending."""
        found = self.followed().get((major, minor), [])
        return dict(sorted((int(path.name.rpartition("-")[2]), path) for path in found))

    def followed(self) -> dict[tuple[int, int], list[Path]]:
        """Return where the generations of every disk are pinned, by its number."""
        found: dict[tuple[int, int], list[Path]] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                known = _CELLS.fullmatch(path.name)
                if known is not None:
                    found.setdefault((int(known[1]), int(known[2])), []).append(path)
        return found

    def place(self, major: int, minor: int, sequence: int) -> Path:
        """Return where a generation belongs."""
        return self._folder / f"disk-{major}-{minor}-{sequence}"

    @cached_property
    def _folder(self) -> Path:
        return self._pins / f"{self._owner}-{hashlib.sha256(self._file.read_bytes()).hexdigest()[:16]}"


def is_mounted(folder: Path) -> bool:
    """Say whether a BPF file system is mounted at a folder."""
    mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    return any(line.split()[1:3] == [str(folder), _FILE_SYSTEM] for line in mounts)


def _may() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return bool(held >> _CAP_SYS_ADMIN & 1) or (held >> _CAP_BPF & held >> _CAP_PERFMON & 1) == 1
    return False
