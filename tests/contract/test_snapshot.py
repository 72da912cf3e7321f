"""What every kind of snapshot promises (`bootpoint_producer.snapshots`), tried on those that run on any machine.

LVM's are tried in a guest: `tests/long/test_lvm.py`. ZFS's commands go to a fake of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract import snapshots
from tests.contract.snapshots import Storage
from tests.integration.source.loop import run, thaw, unmount
from tests.service import zfs_fake
from tests.service.component import need


@pytest.fixture(params=["reflink", "btrfs", "zfs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    need("root", "loop", "xfs", "btrfs")
    kind = str(request.param)
    with ExitStack() as undo:
        store = tmp_path / "store"
        _mount(undo, "btrfs" if kind == "btrfs" else "xfs", tmp_path / "store.img", store, "700M")
        if kind == "zfs":
            zfs_fake.install(monkeypatch, tmp_path, store)
        # Names as bad as they get: a space, a newline, bytes that are no UTF-8.
        disks = {"system": store / "one disk.img", "data": store / "two\n\udcff.img"}
        files = {}
        for slot, path in disks.items():
            _mount(undo, "ext4", path, tmp_path / slot, "40M")
            files[slot] = tmp_path / slot / "file"

        def listing() -> list[str]:
            return sorted(str(each) for each in store.rglob("*"))

        # Where the name of a copy goes at once, the agent dies just before that.
        early = "from bootpoint_producer.snapshots.btrfs import Subvolume\nSubvolume.show = lambda self: None\n"
        preludes = {"btrfs": early, "zfs": zfs_fake.prelude(tmp_path, store), "reflink": ""}
        # A copy of a file with something mounted in it is called by what makes it clean.
        yield Storage("fsfreeze" if kind == "reflink" else kind, disks, files, listing, preludes[kind])


def _mount(undo: ExitStack, fs: str, image: Path, point: Path, size: str) -> None:
    run("truncate", "--size", size, image)
    run(f"mkfs.{fs}", "-q", image)
    point.mkdir()
    run("mount", "-o", "loop", image, point)
    undo.callback(unmount, point)
    undo.callback(thaw, point)


@pytest.mark.parametrize("promise", snapshots.PROMISES, ids=lambda promise: promise.__name__)
def test_promise(storage: Storage, promise: Callable[[Storage], None]) -> None:
    promise(storage)
