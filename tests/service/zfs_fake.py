"""A fake of ZFS's commands, as far as snapshots need them: some mount plays a dataset, loop devices play volumes.

It takes the exact forms that zfs(8) has, and refuses everything else, in OpenZFS's words. A snapshot is a copy.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bootpoint_producer.snapshots import zfs

#: Name of the dataset that files lie in, and of the pool.
POOL, DATASET = "tank", "tank/data"


def install(monkeypatch: pytest.MonkeyPatch, directory: Path, mount: Path) -> None:
    """Let ``zfs`` be the fake, and a mounted file system its dataset.

    Args:
        monkeypatch: Undone with the test.
        directory: Where the fake keeps what it knows.
        mount: Where the dataset is mounted.
    """
    state = directory / "zfs"
    for name in ("bin", "volumes", "snapshots", f"dev/{POOL}"):
        (state / name).mkdir(parents=True)
    program = state / "bin" / "zfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {state} {mount} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{state}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(zfs, "_mounts", lambda: [(mount, "zfs", DATASET)])
    monkeypatch.setattr(zfs, "DEVICES", state / "dev")


def prelude(directory: Path, mount: Path) -> str:
    """Return what makes another process of Python believe that it has ZFS."""
    return (
        "from bootpoint_producer.snapshots import zfs\n"
        f"zfs._mounts = lambda: [(Path({str(mount)!r}), 'zfs', {DATASET!r})]\n"
        f"zfs.DEVICES = Path({str(directory / 'zfs' / 'dev')!r})\n"
    )


class Fake:
    """One call of the program."""

    def __init__(self, state: Path, mount: Path) -> None:
        self._state = state
        self._mount = mount

    def call(self, words: list[str]) -> str:
        match words:
            case ["snapshot", first, *rest]:
                return self._snapshot([first, *rest])
            case ["list", "-H", "-o", "name", "-t", kinds]:
                return "".join(f"{name}\n" for kind in kinds.split(",") for name in self._names(kind))
            case ["list", "-H", "-o", "name", name]:
                self._need(name)
                return f"{name}\n"
            case ["clone", "-o", "readonly=on", "-o", "volmode=dev", snapshot, name]:
                self._need(snapshot)
                return self._attach(self._copy(snapshot), name, snapshot)
            case ["destroy", name]:
                self._need(name)
                return self._destroy(name)
        sys.exit(f"the fake knows no zfs {' '.join(words)}")

    def _names(self, kind: str) -> list[str]:
        if kind == "volume":
            return [f"{POOL}/{path.name}" for path in sorted((self._state / "volumes").iterdir())]
        folder = self._mount / ".zfs" / "snapshot"
        files = [f"{DATASET}@{path.name}" for path in sorted(folder.iterdir())] if folder.is_dir() else []
        return files + [f"{POOL}/{path.name}" for path in sorted((self._state / "snapshots").iterdir())]

    def _need(self, name: str) -> None:
        if name not in [*self._names("volume"), *self._names("snapshot")]:
            sys.exit(f"cannot open '{name}': dataset does not exist")

    def _copy(self, snapshot: str) -> Path:
        return self._state / "snapshots" / snapshot.removeprefix(f"{POOL}/")

    def _snapshot(self, names: list[str]) -> str:
        if {name.partition("@")[2] for name in names} != {names[0].partition("@")[2]}:
            sys.exit("the fake takes snapshots of one name only")
        for name in names:
            dataset, _, snapshot = name.partition("@")
            if dataset == DATASET:
                target = self._mount / ".zfs" / "snapshot" / snapshot
                target.mkdir(parents=True)
                for file in self._mount.iterdir():
                    if file.is_file():
                        subprocess.run(["cp", "--reflink=always", file, target / file.name], check=True)
            elif dataset in self._names("volume"):
                device = (self._state / "dev" / dataset).resolve()
                subprocess.run(
                    ["dd", f"if={device}", f"of={self._copy(name)}", "status=none", "iflag=direct", "bs=1M"], check=True
                )
            else:
                sys.exit(f"cannot open '{dataset}': dataset does not exist")
        return ""

    def _attach(self, file: Path, name: str, origin: str) -> str:
        device = subprocess.check_output(["losetup", "--find", "--show", "--read-only", file], text=True).strip()
        (self._state / "volumes" / name.removeprefix(f"{POOL}/")).write_text(origin)
        (self._state / "dev" / name).symlink_to(device)
        return ""

    def _destroy(self, name: str) -> str:
        short = name.removeprefix(f"{POOL}/")
        if "@" not in name:
            node = self._state / "dev" / name
            subprocess.run(["losetup", "--detach", node.resolve()], check=True)
            node.unlink()
            (self._state / "volumes" / short).unlink()
        elif any(path.read_text() == name for path in (self._state / "volumes").iterdir()):
            sys.exit(f"cannot destroy '{name}': snapshot has dependent clones")
        elif name.startswith(f"{DATASET}@"):
            shutil.rmtree(self._mount / ".zfs" / "snapshot" / name.partition("@")[2])
            for folder in (self._mount / ".zfs" / "snapshot", self._mount / ".zfs"):
                if not any(folder.iterdir()):
                    folder.rmdir()
        else:
            self._copy(name).unlink()
        return ""


def add_volume(directory: Path, name: str, device: Path) -> Path:
    """Let a loop device be a volume; returns its node."""
    state = directory / "zfs"
    (state / "volumes" / name).touch()
    node = state / "dev" / POOL / name
    node.symlink_to(device)
    return node


if __name__ == "__main__":
    sys.stdout.write(Fake(Path(sys.argv[1]), Path(sys.argv[2])).call(sys.argv[3:]))
