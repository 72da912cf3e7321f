"""A machine kept in a chain of VHDX files: each point, flattened by another's reader, boots and shows its instant."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_common.units import GRAIN, MiB
from bootpoint_ops import guest_disk
from bootpoint_worker.vhdx import view
from tests.service.boot import greeting, running, wait_for_text
from tests.service.component import need
from tests.vhdx import disk
from tests.vhdx.judge import Dissect, opened_by

#: Points: the first holds the whole disk, the others what has changed.
POINTS = 3


@pytest.mark.timeout(1500)
def test_every_point_of_a_chain_boots(tmp_path: Path) -> None:
    need("root", "qemu", "nbdkit-python", "libnbd")
    source = tmp_path / "source.raw"
    guest_disk.build(source, marker="generation-0", size_bytes=guest_disk.SMALLEST)
    size = source.stat().st_size
    paths = [disk.by_qemu(tmp_path / "base.vhdx", size)]
    before = bytes(size)
    for number in range(POINTS):
        guest_disk.set_marker(source, f"generation-{number}")
        now = source.read_bytes()
        paths = disk.child(paths, f"point{number}")
        with closing(disk.writer(paths)) as writer:
            for at in _changed(before, now):
                writer.write(at, now[at : at + GRAIN])
            writer.flush()
        before = now
    for number in range(POINTS):
        flat = _flattened(paths[POINTS - 1 - number :], tmp_path / "flat.raw", size)
        log, wanted = tmp_path / f"serial-{number}.log", greeting(f"generation-{number}")
        with running(flat, log):
            assert wait_for_text(log, wanted, "Kernel panic") == wanted
    # What programs are shown by NBD is this machine, too.
    with view.shared("hv1", view.View(files=tuple(map(str, paths))), "system") as share:
        copy = tmp_path / "copy.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", share.uri, str(copy)], check=True)
    assert copy.read_bytes() == flat.read_bytes()


def _changed(before: bytes, now: bytes) -> Iterator[int]:
    return (at for at in range(0, len(now), GRAIN) if before[at : at + GRAIN] != now[at : at + GRAIN])


def _flattened(paths: list[Path], into: Path, size: int) -> Path:
    """Write what dissect.hypervisor reads of a chain into a raw file."""
    with opened_by(paths, Dissect) as reader, into.open("wb") as file:
        for at in range(0, size, MiB):
            file.write(reader.read(at, min(MiB, size - at)))
    return into
