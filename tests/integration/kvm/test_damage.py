"""A bad medium under a KVM replica, from the flipped byte to the repaired point; and points that a database forgot."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

from bootpoint_common.store import request
from bootpoint_common.store import verification as store
from bootpoint_common.store.database import run as execute
from bootpoint_common.units import GRAIN, MiB
from tests.service.component import need
from tests.service.fleet import Fleet
from tests.service.libvirt import LibvirtHost
from tests.service.standby import POOL, Protected, add_kvm_host, assert_identical

SIZE = 40 * MiB


def _write(disk: Path, rng: random.Random, *grains: int) -> None:
    with disk.open("r+b") as stream:
        for grain in grains:
            stream.seek(grain * GRAIN)
            stream.write(rng.randbytes(GRAIN))


def _flip(layer: Path, grain: int) -> None:
    """Change a byte of a grain in the file that holds it, behind qemu's and bootpoint's back."""
    said = subprocess.run(
        ["qemu-img", "map", "-f", "qcow2", "--output=json", str(layer)], check=True, capture_output=True, text=True
    )
    at = grain * GRAIN
    extent = next(e for e in json.loads(said.stdout) if e["start"] <= at < e["start"] + e["length"] and e["depth"] == 0)
    layer.chmod(0o640)
    with layer.open("r+b") as stream:
        stream.seek(extent["offset"] + at - extent["start"] + 4711)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 0xFF]))
    layer.chmod(0o440)


def _verify(fleet: Fleet, point_id: UUID) -> str:
    with fleet.database.transaction() as connection:
        asked = store.ask(connection, point_id, requested_by="test", budgeted=False)
    query = "SELECT result, problem FROM verification WHERE id = %s AND ended_at IS NOT NULL"
    row = fleet.wait_until(lambda: fleet.row(query, asked))
    return str(row["result"] if row["problem"] is None else row["problem"]["message"])


def _rescan(fleet: Fleet) -> dict[str, Any]:
    with fleet.database.transaction() as connection:
        arguments = {"host": "kvm1", "adopt": True, "actor": "test"}
        asked = request.ask_worker(connection, POOL, "host_rescan", arguments, requested_by="test", seconds=60.0)
    (item,) = request.wait(fleet.database, asked, seconds=60.0, nobody=AssertionError("no answer"))["items"]  # type: ignore[arg-type]
    query = "SELECT state, done, problem FROM adoption WHERE id = %s AND state <> 'asked'"
    return dict(fleet.wait_until(lambda: fleet.row(query, UUID(item["adoption"]))))


def test_a_flipped_byte_is_found_named_and_repaired_and_a_forgotten_point_is_taken_over(
    installation: Fleet, libvirt_host: LibvirtHost, storage_directory: Path, tmp_path: Path, rng: random.Random
) -> None:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    disk = tmp_path / "system.raw"
    with disk.open("wb") as stream:
        stream.truncate(SIZE)
    _write(disk, rng, *range(0, 40, 3), *range(300, 310), 600)
    installation.add_worker("w1", pools=(POOL,))
    host_id = add_kvm_host(installation, libvirt_host)
    protected = Protected(installation, "erp", {"system": disk}, host_id, storage_directory, tmp_path / "copies")
    protected.protect()
    _write(disk, rng, 600)
    protected.protect()
    first, second = installation.points(protected.job)
    layers = [layer for _, _, layer in protected.committed()]
    _flip(layers[0], 303)
    assert _verify(installation, second.id) == "damaged"
    found = installation.rows("SELECT point_id, segment, grains FROM damage ORDER BY point_id")
    assert [(row["point_id"], row["segment"], row["grains"]) for row in found] == [
        (first.id, 1, [303]),
        (second.id, 1, [303]),
    ]
    _write(disk, rng, 5)
    run = protected.protect()
    third = installation.points(protected.job)[-1]
    *_, (_, _, layer) = protected.committed()
    assert_identical(layer, protected.copies[run.uid]["system"], tmp_path / "converted.raw")
    assert installation.row("SELECT 1 AS yes FROM event WHERE kind = 'damage_repaired'") == {"yes": 1}
    assert _verify(installation, third.id) == "verified"
    # The database comes from a backup of before the newest point.
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE replica SET head = %s", second.id)
        execute(connection, "DELETE FROM boot_point WHERE id = %s", third.id)
        execute(connection, "DELETE FROM run WHERE uid = %s", third.run_uid)
    adopted = _rescan(installation)
    assert (adopted["state"], adopted["done"]) == ("done", [third.name])
    _write(disk, rng, 7)
    run = protected.protect()
    *_, (_, _, layer) = protected.committed()
    assert_identical(layer, protected.copies[run.uid]["system"], tmp_path / "converted.raw")
    row = installation.row("SELECT kind, reason FROM boot_point WHERE run_uid = %s", run.uid)
    assert row == {"kind": "increment", "reason": None}
    assert protected.wire_bytes(run) < 2 * GRAIN
    protected.remove()
