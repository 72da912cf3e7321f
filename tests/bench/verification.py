"""How fast a point is read again and compared, beside b3sum over the same disk as a flat file."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bootpoint_common.store import verification as store
from tests.bench import case, peer
from tests.bench.rig import AGENT, Measured, Rig
from tests.bench.source import Disk
from tests.bench.usage import CpuMeter


def verification(rig: Rig, disk: Disk, rounds: int) -> tuple[case.Rounds, case.Rounds]:
    """Verify a point and hash the flattened image by b3sum, in turns, after one round that doesn't count.

    b3sum uses as many threads as there are processors, which is as many as qemu-nbd and a worker can keep busy. It has
    to hash holes as well, which a verification doesn't read; so it is measured over the data alone, too.

    Returns:
        The rounds over the whole disk, and those over a file of its data without any hole.
    """
    whole, dense = case.Rounds(), case.Rounds()
    job = rig.fleet.add_job("verify", AGENT, {"system": disk.path})
    _, run = rig.copy(job)
    (file,) = rig.fleet.disk_files(run.uid).values()
    flat, packed = rig.fleet.storage / "flat.raw", rig.fleet.storage / "packed.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(file), str(flat)], check=True)
    _pack(flat, packed, disk)
    until = time.monotonic() + case.BUDGET / 2
    for number in range(-1, rounds):
        if number > 0 and time.monotonic() > until:
            break
        print(f"verification, round {number + 1} of {rounds}" if number >= 0 else "verification, warm-up", flush=True)
        makers = {
            "bootpoint": lambda: _verify(rig, run.uid),
            "b3sum": lambda: peer.b3sum(flat),
            "b3sum, data": lambda: peer.b3sum(packed),
        }
        (whole if number >= 0 else dense).interleave(makers, number)
    dense.of = {"bootpoint": whole.of["bootpoint"], "b3sum": whole.of.pop("b3sum, data")}
    rig.forget(run)
    flat.unlink()
    packed.unlink()
    return whole, dense


def _pack(flat: Path, packed: Path, disk: Disk) -> None:
    """Write the data of a disk, one stretch after the other."""
    with flat.open("rb") as source, packed.open("wb") as file:
        for offset, length in disk.stretches:
            source.seek(offset)
            for _ in range(length >> 20):
                file.write(source.read(1 << 20))


def _verify(rig: Rig, run_uid: object) -> Measured:
    """Ask for a verification, and measure until the row says how it came out."""
    point = rig.fleet.row("SELECT id FROM boot_point WHERE run_uid = %s", run_uid)
    assert point is not None
    with CpuMeter(rig.pids(), rig.fleet.storage) as meter:
        began = time.monotonic()
        with rig.fleet.database.transaction() as connection:
            asked = store.ask(connection, point["id"], requested_by="bench", budgeted=False)
        ended = rig.fleet.wait_for_row(
            "a verification", "SELECT result FROM verification WHERE id = %s AND ended_at IS NOT NULL", asked
        )
        seconds = time.monotonic() - began
    assert ended == {"result": "verified"}
    return Measured(seconds, meter.seconds, meter.by_part)
