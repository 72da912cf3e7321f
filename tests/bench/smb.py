"""Writing to a host's administrative share, against smbclient's ``put`` of the same bytes to the same Samba."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bootpoint_common.units import KiB, MiB
from bootpoint_worker.smb import SmbAccess, SmbFiles
from tests.service.samba import SambaServer

#: What is written in a round, and the size of one write at random.
SIZE, BLOCK = 128 * MiB, 64 * KiB

#: Name of the share, and of the file on it.
SHARE, NAME = "D$", "bench"


@dataclass(slots=True)
class Rounds:
    """Seconds of each round, by what was done: ``put``, ``sequential`` and ``random``, signed or encrypted."""

    put: list[float] = field(default_factory=list)
    sequential: list[float] = field(default_factory=list)
    random: list[float] = field(default_factory=list)

    def faster(self, name: str) -> list[float]:
        """Return the speed of ours by smbclient's, of each round."""
        return [put / ours for put, ours in zip(self.put, getattr(self, name), strict=True)]


@contextmanager
def serving(storage: Path) -> Iterator[SambaServer]:
    """Start an smbd whose files and whose own state are on ``storage``."""
    with TemporaryDirectory(prefix="bootpoint-smb-", dir=storage) as name:
        share = Path(name) / "share"
        share.mkdir()
        server = SambaServer(Path(name), {SHARE: share})
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def measure(storage: Path, rounds: int, rng: random.Random, *, encrypted: bool) -> Rounds:
    """Let both write in turns; what ours wrote is compared with the source each time.

    Args:
        storage: Directory for Samba's files: on tmpfs, so that no disk is measured.
        rounds: How many.
        rng: Makes the bytes, and the order of writes at random.
        encrypted: Whether all of them encrypt, else sign; the dialect is SMB 3.1.1 for all.
    """
    found, data = Rounds(), rng.randbytes(SIZE)
    with serving(storage) as server, TemporaryDirectory(prefix="bootpoint-smb-", dir=storage) as name:
        source = Path(name) / "source"
        source.write_bytes(data)
        for _ in range(rounds):
            found.put.append(put(server, source, encrypted=encrypted))
            offsets = list(range(0, SIZE, MiB))
            found.sequential.append(_ours(server, data, offsets, MiB, encrypted=encrypted))
            offsets = list(range(0, SIZE, BLOCK))
            rng.shuffle(offsets)
            found.random.append(_ours(server, data, offsets, BLOCK, encrypted=encrypted))
    return found


def put(server: SambaServer, source: Path, *, encrypted: bool) -> float:
    """Let smbclient write; its login is within the time, which is some hundredths of a second of it."""
    words = [
        *("smbclient", "--port", str(server.port), "--max-protocol", "SMB3_11"),
        *("--client-protection", "encrypt" if encrypted else "sign"),
        *("--authentication-file", str(_login(server, source)), f"//{server.address}/{SHARE}"),
        *("--command", f"put {source} {NAME}"),
    ]
    begin = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    return time.monotonic() - begin


def _login(server: SambaServer, source: Path) -> Path:
    file = source.with_name("login")
    file.write_text(f"username = {server.username}\npassword = {server.password}\n")
    return file


def _ours(server: SambaServer, data: bytes, offsets: list[int], length: int, *, encrypted: bool) -> float:
    access = SmbAccess(
        host="bench", address=server.address, port=server.port, user=server.username, password=server.password,
        encrypted=encrypted,
    )  # fmt: skip
    begin, view = time.monotonic(), memoryview(data)
    with closing(SmbFiles(access)) as files, closing(files.open(f"D:\\{NAME}", writable=True)) as file:
        for offset in offsets:
            file.write_at(offset, view[offset : offset + length])
        file.flush()
    seconds = time.monotonic() - begin
    path = server.shares[SHARE] / NAME
    if path.read_bytes() != data:
        raise AssertionError("what was written is not what was to be")
    path.write_bytes(bytes(SIZE))  # what the next one must write
    return seconds
