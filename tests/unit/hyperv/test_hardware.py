"""Where disks of a Hyper-V VM are attached, and what its firmware lets start."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bootpoint_common.identity import new_id
from bootpoint_common.units import GiB, MiB
from bootpoint_worker.targets.guest import GuestSystem, Profile
from bootpoint_worker.targets.hyperv.hardware import (
    OTHERS_TEMPLATE,
    WINDOWS_TEMPLATE,
    Spot,
    free_spot,
    generation,
    memory,
    secure_boot,
    spot_of,
)
from bootpoint_worker.targets.replica import Replica, ReplicaDisk

BIOS = Replica(new_id(), "erp", "erp", "D:", "", 2, GiB, "bios", (ReplicaDisk("system", GiB, "system"),))
UEFI = replace(BIOS, firmware="uefi")


def _spots(buses: str, *, second_generation: bool) -> list[str]:
    taken: set[int] = set()
    found = []
    for number, bus in enumerate(buses.split()):
        spot = free_spot(bus, taken, first=number == 0, second_generation=second_generation)
        assert spot is not None
        taken.add(spot.key)
        found.append(f"{spot.kind} {spot.number}:{spot.location}")
    return found


def test_the_first_generation_starts_from_ide_and_has_the_rest_where_the_job_says() -> None:
    assert _spots("virtio virtio ide scsi ide ide", second_generation=False) == [
        "IDE 0:0", "SCSI 0:0", "IDE 0:1", "SCSI 0:1", "IDE 1:0", "IDE 1:1"
    ]  # fmt: skip
    assert free_spot("ide", {0, 1, 64, 65}, first=False, second_generation=False) is None


def test_the_second_generation_has_scsi_alone_and_goes_on_to_a_second_controller() -> None:
    assert _spots("virtio scsi", second_generation=True) == ["SCSI 0:0", "SCSI 0:1"]
    assert _spots("scsi " * 66, second_generation=True)[63:] == ["SCSI 0:63", "SCSI 1:0", "SCSI 1:1"]


@pytest.mark.parametrize("spot", [Spot("IDE", 0, 0), Spot("IDE", 1, 1), Spot("SCSI", 0, 0), Spot("SCSI", 3, 63)])
def test_a_place_is_known_by_its_key(spot: Spot) -> None:
    assert spot_of(spot.key) == spot


def test_the_firmware_of_the_source_makes_the_generation() -> None:
    assert (generation(BIOS), generation(UEFI)) == (1, 2)


def test_memory_is_a_multiple_of_two_mib_and_never_less_than_asked_for() -> None:
    assert memory(replace(BIOS, memory_bytes=GiB + 1)) == GiB + 2 * MiB
    assert memory(BIOS) == GiB


@pytest.mark.parametrize(
    ("replica", "family", "loader", "template"),
    [
        (UEFI, "windows", None, WINDOWS_TEMPLATE),
        (UEFI, "linux", "EFI/debian/shimx64.efi", OTHERS_TEMPLATE),
        # Nobody knows who has signed it: with Secure Boot it might not start.
        (UEFI, "linux", "EFI/debian/grubx64.efi", None),
        (UEFI, "unknown", None, None),
        (BIOS, "windows", None, None),
    ],
)
def test_secure_boot_is_on_where_the_loader_is_signed(
    replica: Replica, family: str, loader: str | None, template: str | None
) -> None:
    profile = Profile(new_id(), datetime.now(UTC), GuestSystem(family), loader=loader)
    assert secure_boot(replica, profile) == template
    assert secure_boot(replica, None) is None
