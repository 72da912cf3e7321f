"""Chains of VHDX files as disks over NBD: nbdkit and its plugin, as qemu and libnbd see them."""

from __future__ import annotations

import random
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_worker.targets import nbdkit
from bootpoint_worker.targets.nbdreader import ALLOCATION, NbdReader
from bootpoint_worker.vhdx import view
from tests.service.component import need
from tests.vhdx import disk
from tests.vhdx.judge import agreed

SIZE = 40 * MiB


@pytest.fixture(autouse=True)
def components() -> None:
    need("nbdkit-python", "libnbd")


@pytest.fixture
def chain(tmp_path: Path, rng: random.Random) -> tuple[list[Path], disk.Content]:
    """Two points, and what they show."""
    content = disk.Content(SIZE)
    paths = [disk.by_qemu(tmp_path / "base.vhdx", SIZE)]
    for name in ("first", "second"):
        paths = disk.child(paths, name)
        with closing(disk.writer(paths)) as writer:
            disk.apply(writer, disk.increment(rng, SIZE, (2 * MiB,)), content)
    return paths, content


def names(paths: list[Path]) -> tuple[str, ...]:
    return tuple(map(str, paths))


def test_a_shared_chain_is_read_by_others(chain: tuple[list[Path], disk.Content], tmp_path: Path) -> None:
    paths, content = chain
    before = [path.read_bytes() for path in paths]
    with view.shared("hv1", view.View(files=names(paths)), "system") as share:
        assert share.size_bytes == SIZE
        for name in ("one", "two"):  # one connection after the other
            command = ["qemu-img", "convert", "-O", "raw", share.uri, str(tmp_path / name)]
            subprocess.run(command, check=True)
        refused = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 64k", share.uri], capture_output=True)
        assert refused.returncode != 0
    assert not Path(share.socket).parent.exists()
    shown = (tmp_path / "two").read_bytes()
    assert [shown[at : at + length] for at, length in content.ranges()] == content.expected()
    assert [path.read_bytes() for path in paths] == before, "who reads writes nothing"


def test_holes_are_told(tmp_path: Path) -> None:
    paths = disk.child([disk.by_qemu(tmp_path / "base.vhdx", SIZE)], "leaf")
    with closing(disk.writer(paths)) as writer:
        writer.write(3 * MiB, b"x" * 65536)
        writer.flush()
    server = view.serve("hv1", view.View(files=names(paths)))
    client = nbdkit.connected(server, (ALLOCATION,))
    with closing(NbdReader(client=client, size_bytes=SIZE, host="hv1", release=server.end)) as reader:
        found = [(at, length) for at, length, zero in reader.extents(0, SIZE) if not zero]
    assert found == [(3 * MiB, 65536)]


def test_what_is_written_by_nbd_is_in_the_leaf(chain: tuple[list[Path], disk.Content]) -> None:
    paths, content = chain
    paths = disk.child(paths, "third")
    server = view.serve("hv1", view.View(files=names(paths), writable=True))
    commands = ["write -P 0x41 1000 3000", "write -z 4M 1M", "flush", "read -P 0x41 1000 3000"]
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "raw", *words, server.uri], check=True, capture_output=True)
    server.end()
    (first, zeros) = agreed(paths, [(0, 32768), (4 * MiB, MiB)])
    before = content.units.get(0, bytes(32768))
    assert first == before[:1000] + b"\x41" * 3000 + before[4000:]
    assert zeros == bytes(MiB)


def test_a_chain_that_cant_be_opened_says_why(chain: tuple[list[Path], disk.Content]) -> None:
    paths, _ = chain
    with pytest.raises(BootpointError) as caught, view.shared("hv1", view.View(files=names(paths[:2])), "system"):
        pytest.fail("it has no base")
    assert caught.value.code is Code.TARGET_CHECK_FAILED
    assert "has a parent, which isn't there" in caught.value.message
