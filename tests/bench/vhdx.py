"""Updating a leaf of VHDX in place: against plain writes of the same blocks, and over SMB against smbclient."""

from __future__ import annotations

import os
import random
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bootpoint_common.units import GRAIN, GiB, MiB
from bootpoint_worker.smb import SmbAccess, SmbFiles
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.file import LocalFile
from bootpoint_worker.vhdx.writer import VhdxWriter
from tests.bench import smb
from tests.hyperv import avhdx
from tests.service.samba import SambaServer

#: What is written in a round, the disk's size, and bytes between two flushes: a bundle's order of size.
SIZE, DISK, FLUSHED = 256 * MiB, 64 * GiB, 32 * MiB


@dataclass(slots=True)
class Rounds:
    """Seconds of each round: ours, and the other's, in order and at random."""

    sequential: list[tuple[float, float]] = field(default_factory=list)
    random: list[tuple[float, float]] = field(default_factory=list)

    def faster(self, name: str) -> list[float]:
        """Return the speed of ours by the other's, of each round."""
        return [other / ours for ours, other in getattr(self, name)]


def measure(place: Path, rounds: int, rng: random.Random) -> Rounds:
    """Let both write in turns, and flush after the same bytes; what ours wrote is read again each time.

    Args:
        place: A directory of a real file system: on tmpfs nothing has to become durable.
        rounds: How many.
        rng: Makes the bytes, and says where they go.
    """
    found, data = Rounds(), memoryview(b"".join(rng.randbytes(MiB) for _ in range(SIZE // MiB)))
    with TemporaryDirectory(prefix="bootpoint-vhdx-", dir=place) as name:
        base = Path(name, "base.vhdx")
        avhdx.create_dynamic(base, DISK)
        for number in range(rounds):
            for how, offsets in _orders(rng, SIZE):
                takes = [lambda at=offsets: _local(base, at, data), lambda at=offsets: _plain(Path(name), at, data)]
                # Who comes first has the coldest caches.
                first, second = takes[number % 2](), takes[1 - number % 2]()
                getattr(found, how).append((first, second) if number % 2 == 0 else (second, first))
    return found


def over_samba(storage: Path, rounds: int, rng: random.Random) -> Rounds:
    """Update a leaf on a share, signed, against smbclient's ``put`` of as many bytes to the same Samba.

    Args:
        storage: Directory for Samba's files: on tmpfs, so that no disk is measured.
        rounds: How many.
        rng: Makes the bytes, and says where they go.
    """
    found, data = Rounds(), memoryview(b"".join(rng.randbytes(MiB) for _ in range(smb.SIZE // MiB)))
    with smb.serving(storage) as server, TemporaryDirectory(prefix="bootpoint-vhdx-", dir=storage) as name:
        source = Path(name, "source")
        source.write_bytes(data)
        base = server.shares[smb.SHARE] / "base.vhdx"
        avhdx.create_dynamic(base, DISK)
        for _ in range(rounds):
            for how, offsets in _orders(rng, smb.SIZE):
                ours = _remote(server, base, offsets, data)
                getattr(found, how).append((ours, smb.put(server, source, encrypted=False)))
    return found


def _orders(rng: random.Random, size: int) -> list[tuple[str, list[int]]]:
    scattered = [grain * GRAIN for grain in rng.sample(range(DISK // GRAIN), size // GRAIN)]
    return [("sequential", list(range(0, size, MiB))), ("random", scattered)]


def _local(base: Path, offsets: list[int], data: memoryview) -> float:
    leaf = _leaf(base)
    begin = time.monotonic()
    with closing(VhdxWriter(Chain([LocalFile(leaf, writable=True), LocalFile(base)]))) as writer:
        _write(writer, offsets, data)
    seconds = time.monotonic() - begin
    _check(leaf, base, offsets, data)
    return seconds


def _remote(server: SambaServer, base: Path, offsets: list[int], data: memoryview) -> float:
    """Update a leaf; the login is within the time, as it is within smbclient's."""
    leaf = _leaf(base)
    access = SmbAccess(
        host="bench", address=server.address, port=server.port, user=server.username, password=server.password,
        encrypted=False,
    )  # fmt: skip
    begin = time.monotonic()
    with closing(SmbFiles(access)) as files:
        chain = Chain([files.open(f"D:\\{leaf.name}", writable=True), files.open(f"D:\\{base.name}")])
        with closing(VhdxWriter(chain)) as writer:
            _write(writer, offsets, data)
    seconds = time.monotonic() - begin
    _check(leaf, base, offsets, data)
    return seconds


def _leaf(base: Path) -> Path:
    leaf = base.with_name("leaf.avhdx")
    avhdx.create_child(leaf, base)
    return leaf


def _write(writer: VhdxWriter, offsets: list[int], data: memoryview) -> None:
    length = len(data) // len(offsets)
    for number, offset in enumerate(offsets):
        writer.write(offset, data[number * length : (number + 1) * length])
        if (number + 1) * length % FLUSHED == 0:
            writer.flush()


def _check(leaf: Path, base: Path, offsets: list[int], data: memoryview) -> None:
    """Compare what a leaf shows with what was written, and remove it."""
    length = len(data) // len(offsets)
    with closing(Chain([LocalFile(leaf), LocalFile(base)])) as chain:
        for number, offset in enumerate(offsets):
            if chain.read(offset, length) != data[number * length : (number + 1) * length]:
                raise AssertionError(f"what was written at {offset} doesn't read again")
    leaf.unlink()


def _plain(place: Path, offsets: list[int], data: memoryview) -> float:
    path = place / "plain"
    length = SIZE // len(offsets)
    begin = time.monotonic()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for number, offset in enumerate(offsets):
            os.pwrite(descriptor, data[number * length : (number + 1) * length], offset)
            if (number + 1) * length % FLUSHED == 0:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)
    seconds = time.monotonic() - begin
    path.unlink()
    return seconds
