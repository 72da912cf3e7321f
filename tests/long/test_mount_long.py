"""A boot point's files on this machine: read, never written, and nothing left when they are unmounted.

Each mount starts libguestfs's VM, which takes half a minute under emulation.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.units import MiB
from bootpoint_ops.mount import mounted_by_fuse, unmount
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.nbd import servers_in
from tests.service.process import run, wait_for
from tests.service.standby import POOL, Protected, add_kvm_host

SECTOR = 512

#: Files of an operating system that libguestfs takes for Debian; what a hostile guest has beside them.
SYSTEM = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian"\n',
    "etc/debian_version": "12.5\n",
    "etc/fstab": "LABEL=root / ext4 defaults 0 1\nLABEL=data /srv/data ext4 ro 0 2\n"
    "LABEL=data /a;!touch\\040/tmp/bootpoint-was-here ext4 ro 0 2\n",
    "etc/known": "known\n",
    "bin/sh": "",
    "srv/data/.keep": "",
}


def make_tree(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "report.txt").symlink_to("/etc/shadow")
    (directory / "up").symlink_to("../../../../../../../etc/shadow")
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "disk", 0o60666, os.makedev(254, 0))
    setuid = directory / "setuid"
    setuid.write_text("#!/bin/sh\nid\n")
    setuid.chmod(0o4755)
    (directory / "a;!touch b|c\nd").write_text("hostile name\n")
    return directory


def make_disk(path: Path, trees: dict[str, Path]) -> None:
    """Make a disk with an MBR and an ext4 file system for each tree."""
    size = 20 * MiB
    path.touch()
    os.truncate(path, MiB + len(trees) * (size + MiB) + MiB)
    starts = [MiB + number * (size + MiB) for number in range(len(trees))]
    with path.open("r+b") as disk:
        disk.seek(446)
        # Of each entry its type (Linux), first sector and length.
        entries = b"".join(struct.pack("<4xB3xII", 0x83, start // SECTOR, size // SECTOR) for start in starts)
        disk.write(entries.ljust(64, b"\0") + b"\x55\xaa")
    for start, (label, tree) in zip(starts, trees.items(), strict=True):
        run(["mkfs.ext4", "-q", "-L", label, "-d", str(tree), "-E", f"offset={start}", str(path), f"{size // MiB}M"])


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


@pytest.fixture
def protected(
    installation: Fleet, libvirt_host: LibvirtHost, storage_directory: Path, tmp_path: Path, request: Any
) -> Iterator[Protected]:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu-img", "qemu-nbd", "guestfish", "fuse")
    installation.add_worker("w1", pools=(POOL,))
    disk = tmp_path / "system.raw"
    first = make_tree(tmp_path / "first", SYSTEM if request.param == "system" else {"etc/known": "known\n"})
    second = make_tree(tmp_path / "second", {"known": "known\n"})
    make_disk(disk, {"root": first, "data": second})
    host = add_kvm_host(installation, libvirt_host)
    made = Protected(installation, "erp", {"system": disk}, host, storage_directory, tmp_path / "copies")
    made.protect()
    yield made
    made.remove()


class Here:
    """The command line of an operator's machine."""

    def __init__(self, database: str, directory: Path) -> None:
        self.env = {
            **os.environ, "BOOTPOINT_STATE": str(directory / "state"), "BOOTPOINT_DATABASE_URL": database
        }  # fmt: skip
        self.state = directory / "state/mounts"
        self.at = directory / "a point"
        self.at.mkdir()

    def bootpoint(self, *words: object) -> dict[str, Any]:
        program = str(Path(sys.executable).with_name("bootpoint"))
        command = [program, *map(str, words), "-o", "json"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def holder(self) -> int:
        (record,) = self.state.glob("*.json")
        return int(json.loads(record.read_text())["pid"])


@pytest.fixture
def here(database: str, tmp_path: Path) -> Iterator[Here]:
    """An operator's machine; a mount that a failed test leaves there would stand in everybody's way."""
    made = Here(database, tmp_path)
    yield made
    for record in made.state.glob("*.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(json.loads(record.read_text())["pid"]), signal.SIGTERM)
    if mounted_by_fuse(str(made.at)):
        unmount(str(made.at), lazily=True)


def left(protected: Protected, here: Here) -> list[object]:
    """Return what there still is of a mount."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "a\\040point" in line]
    words = ("bootpoint_ops.mounting", "guestfish")
    processes = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path, words)]
    references = protected.fleet.rows("SELECT kind FROM reference")
    return [*mounts, *processes, *servers_in(protected.storage), *references, *here.state.iterdir()]


def _holds(path: Path, words: tuple[str, ...]) -> bool:
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError:
        return False
    return any(word in text.split("\0") for word in words)


def check_hostile(directory: Path) -> None:
    """A file can be read; nothing can be written or run, and no link leads anywhere."""
    assert (directory / "report.txt").readlink() == Path("/etc/shadow")
    for name in ("report.txt", "up"):
        with pytest.raises(OSError, match=r"symbolic links|No such file"):
            (directory / name).read_text()
    for path in (directory / "new", directory / "setuid"):
        with pytest.raises(OSError, match="Read-only"):
            path.write_text("x")
    with pytest.raises(OSError, match="Permission denied"):
        subprocess.run([directory / "setuid"], check=False)
    with pytest.raises(OSError, match=r"Permission denied|No such"):
        (directory / "disk").read_bytes()
    assert (directory / "a;!touch b|c\nd").read_text() == "hostile name\n"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protected", ["data"], indirect=True)
def test_a_file_is_taken_out_of_a_disk_without_an_operating_system(protected: Protected, here: Here) -> None:
    found = here.bootpoint("point", "mount", "erp", "latest", here.at)
    assert [item["path"] for item in found["items"]] == [f"{here.at}/system/1", f"{here.at}/system/2"]
    assert (here.at / "system/1/etc/known").read_text() == "known\n"
    assert (here.at / "system/2/known").read_text() == "known\n"
    for number in ("1", "2"):
        check_hostile(here.at / "system" / number)
    (item,) = here.bootpoint("point", "list", "erp")["items"]
    assert [use["kind"] for use in item["in_use_by"]] == ["mount"]
    here.bootpoint("point", "umount", here.at)
    assert left(protected, here) == []
    assert list(here.at.iterdir()) == []
    assert protected.check() == 1


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("protected", ["system"], indirect=True)
def test_an_operating_system_is_shown_as_it_mounts_itself(protected: Protected, here: Here) -> None:
    found = here.bootpoint("point", "mount", "erp", "latest", here.at)
    assert [item["path"] for item in found["items"]] == [str(here.at), f"{here.at}/srv/data"]
    assert (here.at / "etc/known").read_text() == "known\n"
    assert (here.at / "srv/data/known").read_text() == "known\n"
    check_hostile(here.at)
    assert not Path("/tmp/bootpoint-was-here").exists()
    # The holder is killed: what it held ends with it, but for the dead mount, and umount takes that away.
    os.kill(here.holder(), signal.SIGKILL)
    wait_for(lambda: servers_in(protected.storage) == [], "the server on the host to end")
    here.bootpoint("point", "umount", here.at)
    with protected.fleet.database.transaction() as connection:
        connection.execute("DELETE FROM reference")  # runs out by itself after minutes
    assert left(protected, here) == []
    assert protected.check() == 1
