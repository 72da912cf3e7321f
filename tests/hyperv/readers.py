"""What others' readers of VHDX chains show, read by read; `tests.vhdx.judge` has the readers."""

from __future__ import annotations

from pathlib import Path

from tests.hyperv.avhdx import Vhdx
from tests.vhdx.judge import Dissect, Libvhdi, agreed


def by_dissect(path: Path, offset: int, length: int) -> bytes:
    """Read what a chain's topmost file shows, by dissect, which misreads what was written by less than 4 KiB."""
    return agreed(_chain(path), [(offset, length)], (Dissect,))[0]


def by_libvhdi(path: Path, offset: int, length: int) -> bytes:
    """Read likewise by libvhdi, which is given each parent and checks that it is the one."""
    return agreed(_chain(path), [(offset, length)], (Libvhdi,))[0]


def _chain(path: Path) -> list[Path]:
    with Vhdx(path) as disk:
        parent = disk.parent_path
    return [path, *(_chain(parent) if parent else [])]
