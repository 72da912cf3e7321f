"""The power can be cut under a directory, and what was synced survives, and only that for certain."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from tests.service.component import absent, need
from tests.service.powercut import PowerCutStorage

DATA = bytes(range(256)) * 1024


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[PowerCutStorage]:
    """A directory whose power can be cut."""
    need("root", "fuse", "loop")
    if find_spec("mfusepy") is None:
        absent("needs mfusepy, which this machine lacks: make setup")
    with PowerCutStorage(tmp_path / "storage") as made:
        yield made


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, *, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    if sync:
        _sync_directory(path.parent)


def test_what_was_synced_survives_and_what_was_not_may_vanish(storage: PowerCutStorage) -> None:
    left: list[bytes | None] = []
    for seed in range(20):
        _write(storage.path / f"synced-{seed}", DATA, sync=True)
        unsynced = storage.path / f"unsynced-{seed}"
        _write(unsynced, DATA, sync=False)
        storage.cut(Random(seed))
        left.append(unsynced.read_bytes() if unsynced.exists() else None)
        for earlier in range(seed + 1):
            assert (storage.path / f"synced-{earlier}").read_bytes() == DATA
    assert any(content != DATA for content in left)


def test_a_cut_in_the_midst_of_writing_in_place_keeps_every_synced_block(storage: PowerCutStorage) -> None:
    path = storage.path / "disk"
    _write(path, bytes(len(DATA)), sync=True)
    outcomes = set()
    for seed in range(8):
        _write_in_place(path, 0, bytes([seed + 1]) * 65536, sync=True)
        _write_in_place(path, 65536, bytes([seed + 1]) * 65536, sync=False)
        _start_writeback(path)
        storage.cut(Random(seed))
        content = path.read_bytes()
        assert content[:65536] == bytes([seed + 1]) * 65536
        assert set(content[65536:131072]) <= set(range(seed + 2))
        outcomes.add("kept" if content[65536:131072] == bytes([seed + 1]) * 65536 else "lost")
        assert storage.kept_bytes + storage.lost_bytes >= 65536
    assert "lost" in outcomes


def test_the_journal_is_replayed_and_the_file_system_is_clean(storage: PowerCutStorage) -> None:
    random = Random(1)
    for seed in range(5):
        for number in range(20):
            _write(storage.path / f"file-{random.randrange(40)}", random.randbytes(9000), sync=number % 4 == 0)
        storage.cut(Random(seed))
        assert storage.check() == ""


def test_a_rename_that_was_synced_is_whole(storage: PowerCutStorage) -> None:
    path = storage.path / "manifest.json"
    for seed in range(8):
        text = f"version {seed} " * 100
        new = storage.path / "manifest.new"
        _write(new, text.encode(), sync=True)
        new.rename(path)
        _sync_directory(storage.path)
        _write(new, b"next", sync=False)
        storage.cut(Random(seed))
        assert path.read_text() == text


def test_killing_the_daemon_is_a_cut_that_keeps_nothing(storage: PowerCutStorage) -> None:
    _write(storage.path / "synced", DATA, sync=True)
    _write(storage.path / "unsynced", DATA, sync=False)
    os.kill(storage.daemon_pid, signal.SIGKILL)
    storage.cut(Random(0))
    assert (storage.path / "synced").read_bytes() == DATA
    assert not (storage.path / "unsynced").exists()
    assert storage.check() == ""


def test_a_file_that_is_held_open_hinders_no_cut(storage: PowerCutStorage) -> None:
    with (storage.path / "open").open("wb", buffering=0) as file:
        file.write(DATA)
        os.fsync(file.fileno())
        _sync_directory(storage.path)
        file.write(DATA)
        storage.cut(Random(0))
        assert (storage.path / "open").read_bytes()[: len(DATA)] == DATA
    assert storage.check() == ""


def _write_in_place(path: Path, offset: int, data: bytes, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, data, offset)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _start_writeback(path: Path) -> None:
    """Have the kernel write the file's dirty pages to the disk, without asking the disk to sync them."""
    import ctypes  # sync_file_range has no home in Python's library

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDWR)
    try:
        before_write_after = 7
        done = libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), before_write_after)
        assert done == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)
