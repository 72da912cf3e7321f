"""What every kind of snapshot promises, as functions: called by pytest, and in a guest that has no pytest."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import MiB
from bootpoint_producer.snapshots import Consistency, Snapshot, SnapshotSet, choose, remove_leftovers

#: Seconds that a freeze may last: guests are slow, and so is a loaded machine.
FREEZE = 60.0
#: Names of the agents of these tests; the second one's begins like the first one's, and goes on as no random hex does.
OWNER, OTHER = "erp-db", "erp-db-two"


@dataclass(frozen=True, slots=True)
class Storage:
    """Two disks in use, named ``system`` and ``data``.

    Attributes:
        kind: The snapshot that is taken of them.
        disks: Their paths.
        files: A file within each of them, on a mounted file system.
        listing: Says what there is beside them: snapshots, copies, anything.
        prelude: What makes another process see the disks as this one does.
    """

    kind: str
    disks: Mapping[str, Path]
    files: Mapping[str, Path]
    listing: Callable[[], list[str]]
    prelude: str = ""

    def snapshot(self, owner: str = OWNER) -> Snapshot:
        """Return what takes the snapshot."""
        choice = choose(self.disks, owner=owner, freeze_timeout=FREEZE)
        assert set(choice.kinds.values()) == {self.kind}, choice
        return choice.snapshot

    def write(self, slot: str, number: int) -> None:
        """Write a number into a disk, in place; it is there when this returns."""
        with self.files[slot].open("r+b" if self.files[slot].exists() else "w+b", buffering=0) as file:
            file.write(mark(slot, number).ljust(4096))
            subprocess.run(["sync", self.files[slot]], check=True)


def mark(slot: str, number: int) -> bytes:
    """Return what is written into a disk for a number."""
    return f"<mark of {slot}: {number:08}>".encode()


def shown(taken: SnapshotSet, slot: str) -> int:
    """Return the newest number in the picture of a disk; -1 where there is none."""
    pattern = re.compile(f"<mark of {slot}: ([0-9]{{8}})>".encode())
    numbers = [-1]
    with closing(taken.source(slot)) as source:
        for offset in range(0, source.size_bytes, MiB):
            part = source.read(offset, min(MiB, source.size_bytes - offset))
            numbers += [int(found) for found in pattern.findall(part)]
    return max(numbers)


def shows_the_instant(storage: Storage) -> None:
    """The picture has what was written before, nothing of what came later, and others can read it by its path."""
    before = storage.listing()
    for slot in storage.disks:
        storage.write(slot, 1)
    told: list[int] = []
    taken = storage.snapshot().take(storage.disks, at_instant=lambda: told.append(1))
    assert told == [1], "the instant is told once"
    try:
        for slot in storage.disks:
            storage.write(slot, 2)
        assert (taken.kind, taken.consistency, taken.reason) == (storage.kind, Consistency.FS, "")
        for slot in storage.disks:
            assert shown(taken, slot) == 1, slot
            path = taken.path(slot)
            if path != str(storage.disks[slot]):
                found = subprocess.run(["grep", "-abo", mark(slot, 1).decode(), path], check=False, capture_output=True)
                assert found.returncode == 0, f"{path} doesn't show it"
        assert taken.confirm() == Consistency.FS
    finally:
        taken.release()
    taken.release()
    assert storage.listing() == before, "something is left"


def holds_all_disks_at_one_instant(storage: Storage) -> None:
    """Of two disks that are written to in turn, no picture shows the second one ahead of the first."""
    slots = list(storage.disks)
    for slot in slots:
        storage.write(slot, 0)
    stop, number = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            number[0] += 1
            for slot in slots:
                storage.write(slot, number[0])

    writer = threading.Thread(target=write)
    writer.start()
    at: list[int] = []
    try:
        taken = storage.snapshot().take(storage.disks, at_instant=lambda: at.append(number[0]))
    finally:
        stop.set()
        writer.join()
    try:
        first, second = (shown(taken, slot) for slot in slots)
        assert (first, second) in {(at[0], at[0]), (at[0], at[0] - 1), (at[0] - 1, at[0] - 1)}, (first, second, at)
        assert taken.consistency == Consistency.FS, taken.reason
    finally:
        taken.release()


_DIES = """
import os, signal, sys
from pathlib import Path
from bootpoint_producer.snapshots import choose
{prelude}
disks = {{"system": Path({system!r}), "data": Path({data!r})}}
choose(disks, owner={owner!r}, freeze_timeout={freeze}).snapshot.take(disks)
os.kill(os.getpid(), signal.SIGKILL)
"""


def removes_its_own_leftovers_only(storage: Storage) -> None:
    """What a dead agent left goes at its next start, and nothing of another's does."""
    before = storage.listing()
    disks = {slot: str(path) for slot, path in storage.disks.items()}
    for owner in (OWNER, OTHER):
        script = _DIES.format(prelude=storage.prelude, owner=owner, freeze=FREEZE, **disks)
        ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
        assert ended.returncode == -9, ended.stderr
    both = storage.listing()
    files = list(storage.disks.values())
    remove_leftovers(files, OWNER)
    one = storage.listing()
    assert [name for name in both if OTHER in name] == [name for name in one if OTHER in name], "another's is gone"
    assert not [name for name in one if OWNER in name and OTHER not in name], "its own is there still"
    remove_leftovers(files, OTHER)
    assert storage.listing() == before


def names_what_it_lacks(storage: Storage) -> None:
    """A slot that the run doesn't have is no disk."""
    taken = storage.snapshot().take(storage.disks)
    try:
        for ask in (taken.source, taken.path):
            try:
                ask("other")
            except KeyError:
                continue
            raise AssertionError("a disk that isn't there")
    finally:
        taken.release()


PROMISES = (shows_the_instant, holds_all_disks_at_one_instant, removes_its_own_leftovers_only, names_what_it_lacks)
