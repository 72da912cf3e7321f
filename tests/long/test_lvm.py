"""Snapshots of LVM on real volumes, in a guest whose kernel has them (`tests.service.lvm_trials`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from tests.service.component import need
from tests.service.linux_guest import LinuxGuest, linux_guest

_DISKS = {"vdb": 192 * MiB, "vdc": 192 * MiB, "vdd": 192 * MiB, "vde": 128 * MiB, "vdf": 128 * MiB}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxGuest]:
    need("root", "qemu", "mmdebstrap")
    directory: Path = tmp_path_factory.mktemp("lvm")
    with linux_guest(directory, disks=_DISKS) as started:
        yield started


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trial", ["thick", "thin", "whole", "mirror", "overflow", "dies"])
def test_trial(guest: LinuxGuest, trial: str) -> None:
    guest.run(f"from tests.service.lvm_trials import {trial}\n{trial}()", timeout=900.0).check()
