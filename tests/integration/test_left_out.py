"""What an agent leaves out, through to the point on the host and its verification."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.store import verification as store
from bootpoint_common.store.point import Point
from bootpoint_common.units import GRAIN, SECTOR, MiB
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.component import need
from tests.service.fleet import Fleet, fleet

SIZE = 64 * MiB

#: First grain of the swap area, and the one past its last.
SWAP = (16, 896)


class Machine:
    """A source with a disk of one ext4, full of stale blocks, and one with swap; its replica is on a fake host."""

    def __init__(self, installation: Fleet, folder: Path) -> None:
        self.fleet = installation
        self.host = FakeHost.at(f"fake-{folder.name}")
        self.disks = {"system": folder / "system.raw", "swap": folder / "swap.raw"}
        files = folder / "files"
        files.mkdir()
        (files / "large").write_bytes(os.urandom(9 * MiB))
        for disk in self.disks.values():
            disk.write_bytes(os.urandom(SIZE))
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard", "-d", files, self.disks["system"]], check=True
        )
        area = folder / "area"
        area.write_bytes(os.urandom((SWAP[1] - SWAP[0]) * GRAIN))
        subprocess.run(["mkswap", "-q", area], check=True, capture_output=True)
        first, last = (number * GRAIN // SECTOR for number in SWAP)
        # A disk of swap alone would be refused.
        table = f"label: dos\nstart={first}, size={last - first}, type=S\nstart={last}, type=L\n"
        subprocess.run(["sfdisk", "-q", self.disks["swap"]], input=table, text=True, check=True)
        with self.disks["swap"].open("r+b") as file:
            file.seek(SWAP[0] * GRAIN)
            file.write(area.read_bytes())
        installation.add_worker("w1")
        installation.add_agent("erp", list(self.disks.values()))
        host = installation.add_host(self.host.name)
        self.job = installation.add_job("erp", "erp", self.disks, host, skip=["swap"])

    def run(self) -> tuple[Point, dict[str, bytes], dict[str, set[int]]]:
        """Do a run; return its point, what it shows, and the grains that its rows call skipped."""
        self.fleet.wait(self.fleet.run(self.job))
        made = self.fleet.points(self.job)[-1]
        shown = {slot: self.host.content(made.replica_id, made.id, slot) for slot in self.disks}
        rows = self.fleet.rows("SELECT slot, skipped FROM boot_point_disk WHERE point_id = %s", made.id)
        skipped = {
            row["slot"]: {grain for at, size in row["skipped"] for grain in range(at // GRAIN, (at + size) // GRAIN)}
            for row in rows
        }
        return made, shown, skipped

    def verify(self, made: Point) -> str:
        with self.fleet.database.transaction() as connection:
            asked = store.ask(connection, made.id, requested_by="test", budgeted=False)
        ended = self.fleet.wait_until(
            lambda: self.fleet.row("SELECT result FROM verification WHERE id = %s AND ended_at IS NOT NULL", asked)
        )
        return str(ended["result"])


@pytest.fixture
def machine(database: str, tmp_path: Path) -> Iterator[Machine]:
    need("root", "loop", "partclone")
    with fleet(database, tmp_path) as installation:
        yield Machine(installation, tmp_path)


def grain(content: bytes, number: int) -> bytes:
    return content[number * GRAIN : (number + 1) * GRAIN]


def test_a_point_has_every_used_block_and_no_other(machine: Machine, rng: random.Random) -> None:
    made, shown, skipped = machine.run()
    assert len(skipped["system"]) * GRAIN > SIZE // 2
    assert skipped["swap"] == set(range(SWAP[0] + 1, SWAP[1]))
    for slot, disk in machine.disks.items():
        content = disk.read_bytes()
        for number in range(SIZE // GRAIN):
            expected = bytes(GRAIN) if number in skipped[slot] else grain(content, number)
            assert grain(shown[slot], number) == expected, (slot, number)
    assert machine.verify(made) == "verified"
    # A stale block that was written meanwhile, and a used one.
    stale = rng.choice(sorted(skipped["system"]))
    with machine.disks["system"].open("r+b") as file:
        file.seek(stale * GRAIN)
        file.write(rng.randbytes(GRAIN))
        file.seek(SIZE - 10)
        file.write(b"end")
    made, again, skipped = machine.run()
    assert grain(again["system"], stale) == bytes(GRAIN)
    assert again["system"][-10:-7] == b"end"
    changed = machine.fleet.row("SELECT sum(changed_bytes) AS sum FROM boot_point_disk WHERE point_id = %s", made.id)
    assert changed == {"sum": GRAIN}
    # Somebody has the disk open for writing: its map may be of another instant than what is read.
    with machine.disks["system"].open("r+b"):
        made, whole, skipped = machine.run()
    assert skipped["system"] == set()
    assert whole["system"] == machine.disks["system"].read_bytes()
    assert len(skipped["swap"]) == SWAP[1] - SWAP[0] - 1
    assert machine.verify(made) == "verified"
