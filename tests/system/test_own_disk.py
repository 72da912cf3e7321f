"""A run on the disk that the test machine runs from: it says what it could do and why, and changes nothing there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bootpoint_producer.diskmap import inventory
from tests.service.component import need
from tests.service.fleet import fleet


def own_disk() -> dict[str, Any] | None:
    """Return the disk with this machine's root file system; None where the machine sees none (in a container)."""
    items: list[dict[str, Any]] = inventory()["items"]
    mine = [item for item in items if item["eligible"] and any(part["mount"] == "/" for part in item["partitions"])]
    return mine[0] if mine else None


def traces() -> list[str]:
    """Return what a run could leave behind: how the root is mounted, devices above disks, files in the root."""
    mounts = Path("/proc/self/mountinfo").read_bytes().decode(errors="replace").splitlines()
    root = [line for line in mounts if line.split()[4] == "/"]
    devices = sorted(path.name for path in Path("/sys/class/block").glob("dm-*"))
    return root + devices + sorted(path.name for path in Path("/").glob(".bootpoint*"))


@pytest.mark.timeout(120)
def test_a_run_on_the_machines_own_disk_says_why_it_can_not_be_held_still(database: str, tmp_path: Path) -> None:
    need("root")
    disk = own_disk()
    if disk is None:
        return  # nor can it be protected by mistake
    assert disk["snapshot"] in ("none", "fsfreeze", "lvm", "lvm-thin", "btrfs")
    assert disk["snapshot_reason"]
    assert disk["tracker_reason"]
    if disk["snapshot"] not in ("none", "fsfreeze"):
        return  # held still by its storage: a run would copy all of it
    path = Path(disk["path"])
    with fleet(database, tmp_path) as installation:
        installation.add_worker("w1")
        host = installation.add_host(f"fake-{tmp_path.name}")
        installation.add_agent("own", [path])
        job = installation.add_job("own", "own", {"system": path}, host, consistency="fs")
        before = traces()
        row = installation.wait(installation.run(job), state="failed")
        assert row["reason"] == "consistency_too_low"
        for word in (str(path), "mounted at /", "nothing here can hold it still", "reached crash", "wants fs"):
            assert word in row["message"], row["message"]
        assert 'accept "crash"' in row["hint"]
        assert traces() == before
        assert installation.points(job) == []
    # It isn't frozen: this would wait for ever.
    probe = Path("/.bootpoint-test-probe")
    probe.write_bytes(b"x")
    os.sync()
    probe.unlink()
