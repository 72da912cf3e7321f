"""What processes use, read from ``/proc`` while they run: processor seconds and memory of their own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from bootpoint_common.units import MiB

_TICK = os.sysconf("SC_CLK_TCK")

#: Seconds between two looks.
INTERVAL = 0.05


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and of those of its children that have ended and were waited for.

    Raises:
        OSError: There is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICK


def tree(roots: Iterable[int]) -> set[int]:
    """Return these processes and all their descendants."""
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def own_memory(pid: int) -> int:
    """Return the bytes of memory that are a process's own: RssAnon + RssShmem.

    Raises:
        OSError: There is no such process.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


class CpuMeter:
    """Adds up the processor seconds of long-lived processes, and of servers that come and go below a directory.

    Args:
        roots: Processes that run all the time, by the part that they belong to; their descendants count too.
        servers_of: Directory whose mention in a qemu-nbd's command line makes it one that counts.

    Attributes:
        by_part: The seconds of each part, and of ``qemu-nbd``.
        seconds: All of them.
    """

    def __init__(self, roots: Mapping[str, Iterable[int]], servers_of: Path) -> None:
        self._roots = {part: list(pids) for part, pids in roots.items()}
        self._directory = str(servers_of).encode()
        self._seen: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before: dict[str, float] = {}
        self.by_part: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return sum(self.by_part.values())

    def __enter__(self) -> Self:
        self._before = self._of_trees()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        after = self._of_trees()
        self.by_part = {part: after[part] - self._before[part] for part in after}
        self.by_part["qemu-nbd"] = sum(self._seen.values())

    def _of_trees(self) -> dict[str, float]:
        totals = dict.fromkeys(self._roots, 0.0)
        for part, roots in self._roots.items():
            for pid in tree(roots):
                with contextlib.suppress(OSError):
                    totals[part] += cpu_seconds(pid)
        return totals

    def _watch(self) -> None:
        known: dict[str, bool] = {}
        while not self._stop.wait(INTERVAL):
            for entry in Path("/proc").glob("[0-9]*"):
                name = entry.name
                with contextlib.suppress(OSError):
                    if name not in known:
                        words = (entry / "cmdline").read_bytes().split(b"\0")
                        if not words[0]:
                            continue  # about to become another program, or a thread of the kernel
                        known[name] = words[0].endswith(b"qemu-nbd") and any(
                            word.startswith(self._directory) for word in words
                        )
                    if known[name]:
                        self._seen[int(name)] = cpu_seconds(int(name))


class MemoryMeter:
    """Notes the most memory of their own that some processes have.

    Args:
        pids: The processes, by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = dict.fromkeys(pids, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            for name, pid in self._pids.items():
                with contextlib.suppress(OSError):
                    self.most[name] = max(self.most[name], own_memory(pid))

    def mebibytes(self, name: str) -> float:
        """Return the most that a process had, in MiB."""
        return self.most[name] / MiB
