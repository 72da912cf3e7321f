"""Sources that this machine's kernel can't have, for real inside a Linux guest: thin pools, LVM, md, an older BPF."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from tests.service import linux_guest as harness
from tests.service.component import need
from tests.service.linux_guest import GuestError, linux_guest

pytestmark = pytest.mark.timeout(2400)

#: Seconds for one part of a scenario; a quiet machine needs a fifth of it.
PART = 900.0


@pytest.fixture(autouse=True)
def machine() -> None:
    need("root", "qemu", "mmdebstrap")


def test_a_guest_that_hangs_is_told_from_one_that_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "GRACE", 3.0)
    with linux_guest(tmp_path) as guest:
        pid = guest.pid
        guest.freeze()
        with pytest.raises(GuestError, match=r"hangs: the end of a script was awaited for 5 s in vain"):
            guest.run("print(1)", timeout=2)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_thin_pool_names_what_changed_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with linux_guest(tmp_path, disks={"vdb": 256 * MiB}) as guest:
        for part in ("make_pool", "changes"):
            guest.run(f"from tests.guest import thin_tracker\nthin_tracker.{part}()", timeout=PART).check()


def test_what_goes_wrong_in_a_thin_pool_costs_a_hash_scan_and_no_change(tmp_path: Path) -> None:
    with linux_guest(tmp_path, disks={"vdb": 256 * MiB}) as guest:
        faults = ("killed", "held_by_others", "lost", "grown", "unneeded", "begin", "relieved", "full")
        for part in ("make_pool", "begin", *faults):
            guest.run(f"from tests.guest import thin_tracker\nthin_tracker.{part}()", timeout=PART).check()


def test_volumes_and_arrays_are_read_while_somebody_writes_and_nothing_is_missed(tmp_path: Path) -> None:
    disks = dict.fromkeys(("vdb", "vdc", "vdd", "vde", "vdf", "vdg"), 160 * MiB)
    with linux_guest(tmp_path, disks={**disks, "sda": 32 * MiB}) as guest:
        for part in ("make", "by_ebpf", "by_thin", "overflow", "vanish"):
            guest.run(f"from tests.guest import stack\nstack.{part}()", timeout=PART).check()
