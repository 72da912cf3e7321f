"""The demo's disk boots on other buses than the demo's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.test_guest_disk import boots, disk

__all__ = ["disk"]


@pytest.mark.timeout(400)  # the first use on a machine fetches Debian's packages
@pytest.mark.parametrize(
    ("bus", "machine", "root"), [("scsi", "q35", "/dev/sda1"), ("ide", "pc", "/dev/sda1")]
)
def test_boots_on_other_buses(disk: Path, bus: str, machine: str, root: str) -> None:
    boots(disk, bus, machine, root)
