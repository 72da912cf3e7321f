"""Loop devices and loop mounts, taken away again whatever a test did to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.source.loop import Attach, Mount, run, thaw, unmount
from tests.service.component import need


@pytest.fixture(autouse=True)
def machine() -> None:
    need("root", "loop", "xfs", "btrfs")


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Make a loop device of a file: ``attach(file, *options)``."""
    with ExitStack() as undo:

        def attach(file: Path, *options: str) -> Path:
            device = Path(run("losetup", "--find", "--show", *options, file))
            undo.callback(run, "losetup", "--detach", device)
            return device

        yield attach


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Make a file system in a new file and mount it: ``mounted(fs, name)`` returns the mount point."""
    with ExitStack() as undo:

        def mounted(fs: str, name: str, folder: Path = tmp_path, size: str = "320M") -> Path:
            image, point = folder / f"{name}.img", tmp_path / f"{name}.mnt"
            run("truncate", "--size", size, image)
            run(f"mkfs.{fs}", "-q", image)
            point.mkdir()
            run("mount", "-o", "loop", image, point)
            undo.callback(unmount, point)
            undo.callback(thaw, point)
            return point

        yield mounted
