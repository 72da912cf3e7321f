"""Chains of VHDX files on a real Samba: updated, served by NBD, and cut off in mid-write."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain as joined
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_worker.smb import SmbAccess, SmbFiles
from bootpoint_worker.vhdx import view
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.writer import VhdxWriter
from tests.service.component import need
from tests.service.samba import SambaServer, samba_server
from tests.vhdx import disk
from tests.vhdx.judge import Dissect, StandIn, agreed

__all__ = ["samba_server"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

SIZE = 6 * 1024 * MiB


@pytest.fixture
def folder(samba_server: SambaServer, tmp_path: Path) -> Path:
    """A folder of the share ``D$``."""
    path = samba_server.shares["D$"] / tmp_path.name
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def components() -> None:
    need("nbdkit-python", "libnbd")


def access_to(server: SambaServer) -> SmbAccess:
    return SmbAccess(
        host="hv1", address=server.address, port=server.port, user=server.username, password=server.password
    )


def windows(path: Path) -> str:
    return f"D:\\{path.parent.name}\\{path.name}"


@contextmanager
def remote_writer(server: SambaServer, paths: list[Path]) -> Iterator[VhdxWriter]:
    with closing(SmbFiles(access_to(server))) as files:
        opened = [files.open(windows(path), writable=path == paths[0]) for path in paths]
        with closing(VhdxWriter(Chain(opened))) as writer:
            yield writer


def test_points_are_written_over_smb_and_read_by_nbd(
    samba_server: SambaServer, folder: Path, tmp_path: Path, rng: random.Random
) -> None:
    paths, content = [disk.by_qemu(folder / "base.vhdx", SIZE)], disk.Content(SIZE)
    for number in range(3):
        paths = disk.child(paths, f"point{number}")
        with remote_writer(samba_server, paths) as writer:
            disk.apply(writer, disk.increment(rng, SIZE, (4096 * MiB, 2 * MiB)), content)
    assert agreed(paths, content.ranges()) == content.expected()
    with closing(SmbFiles(access_to(samba_server))) as files:
        reader = Chain([files.open(windows(path)) for path in paths])
        with closing(reader):
            assert [bytes(data) for _, data in reader.stream(content.ranges())] == content.expected()
    names = tuple(map(windows, paths))
    with view.shared("hv1", view.View(files=names, access=access_to(samba_server)), "system") as share:
        reads = [f"read -P {data[0]} {at} 1" for at, data in _first_bytes(content)]
        words = joined.from_iterable(("-c", command) for command in reads)
        subprocess.run(["qemu-io", "-r", "-f", "raw", *words, share.uri], check=True, capture_output=True)


def _first_bytes(content: disk.Content) -> list[tuple[int, bytes]]:
    return [(unit * disk.UNIT, data) for unit, data in sorted(content.units.items())][:50]


def test_a_host_that_restarts_in_mid_write_leaves_old_or_new(
    samba_server: SambaServer, folder: Path, rng: random.Random
) -> None:
    paths, before = [disk.by_qemu(folder / "base.vhdx", SIZE)], disk.Content(SIZE)
    with closing(disk.writer(paths)) as writer:
        disk.apply(writer, [(0, rng.randbytes(16 * MiB), False)], before)
    paths = disk.child(paths, "leaf")
    flushed, lost = rng.randbytes(4 * MiB), rng.randbytes(8 * MiB)
    try:
        with remote_writer(samba_server, paths) as writer:
            writer.write(0, flushed)
            writer.flush()
            before.put(0, flushed)
            with pytest.raises(BootpointError) as caught:  # noqa: PT012 - one of these is the first to notice
                writer.write(2 * MiB, lost)
                samba_server.cut()
                writer.flush()
            assert caught.value.code in (Code.HOST_UNREACHABLE, Code.TARGET_WRITE_ERROR)
            with pytest.raises(BootpointError):
                writer.flush()
    finally:
        samba_server.start()
    ranges = before.ranges()
    for (at, length), shown in zip(ranges, agreed(paths, ranges, (Dissect, StandIn)), strict=True):
        old = before.units.get(at // disk.UNIT, bytes(length))
        new = lost[at - 2 * MiB :][:length] if 2 * MiB <= at < 10 * MiB else old
        assert all(shown[s : s + 512] in (old[s : s + 512], new[s : s + 512]) for s in range(0, length, 512))


def test_a_chain_that_a_vm_has_open_is_busy(samba_server: SambaServer, folder: Path) -> None:
    paths = disk.child([disk.by_qemu(folder / "base.vhdx", SIZE)], "leaf")
    shown = view.View(files=tuple(map(windows, paths)), access=access_to(samba_server))
    with remote_writer(samba_server, paths), pytest.raises(BootpointError) as caught, view.shared("hv1", shown, "s"):
        pytest.fail("it can be opened")
    assert caught.value.code is Code.BUSY
