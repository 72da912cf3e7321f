"""A standby's hardware in vSphere's words: guests, controllers, disks."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from bootpoint_common.identity import new_id
from bootpoint_worker.targets.esxi.hardware import Board, capacity_kib, guest_id, new_backing
from bootpoint_worker.targets.guest import GuestSystem, Profile
from bootpoint_worker.targets.replica import new_mac

pytest.importorskip("pyVmomi")

#: What a host of the release before the guest's knows.
KNOWN = ("debian11_64Guest", "other5xLinux64Guest", "otherLinux64Guest", "windows9Server64Guest", "otherGuest64")


def _profile(family: str, name: str = "", version: str = "") -> Profile:
    return Profile(new_id(), datetime.now(UTC), GuestSystem(family, name, version))


@pytest.mark.parametrize(
    ("profile", "known", "expected"),
    [
        (_profile("linux", "Debian GNU/Linux", "11"), KNOWN, "debian11_64Guest"),
        (_profile("linux", "Debian GNU/Linux", "12"), KNOWN, "other5xLinux64Guest"),
        (_profile("linux", "Debian GNU/Linux"), KNOWN, "other5xLinux64Guest"),
        (_profile("linux", "Slackware", "15"), KNOWN, "other5xLinux64Guest"),
        (_profile("linux"), (), "otherLinux64Guest"),
        (_profile("windows", "Windows"), KNOWN, "windows9Server64Guest"),
        (_profile("unknown"), KNOWN, "otherGuest64"),
        (None, KNOWN, "otherGuest64"),
    ],
)
def test_a_guest_is_named_as_exactly_as_the_host_knows_it(
    profile: Profile | None, known: tuple[str, ...], expected: str
) -> None:
    assert guest_id(profile, known) == expected


def _places(board: Board) -> list[tuple[int, int]]:
    return [(c.device.controllerKey, c.device.unitNumber) for c in board.changes if hasattr(c.device, "unitNumber")
            and c.device.controllerKey is not None]  # fmt: skip


def _attach(board: Board, bus: str, count: int) -> None:
    for number in range(count):
        board.attach(bus, new_backing(f"[ds] vm/{number}.vmdk"), size_bytes=1 << 20, key=-1000 - number)


def test_disks_never_take_the_controllers_own_unit_and_go_on_with_a_second_controller() -> None:
    board = Board()
    _attach(board, "virtio", 16)
    places = _places(board)
    assert [unit for _, unit in places[:15]] == [unit for unit in range(16) if unit != 7]
    assert places[15][1] == 0
    assert places[15][0] != places[0][0]
    assert len(set(places)) == 16


def test_a_disk_goes_to_a_free_unit_of_a_controller_that_is_there() -> None:
    from pyVmomi import vim

    there: list[Any] = [
        vim.vm.device.VirtualAHCIController(key=15000),
        SimpleNamespace(key=16000, controllerKey=15000, unitNumber=0),
    ]
    board = Board(there)
    _attach(board, "sata", 1)
    assert _places(board) == [(15000, 1)]
    assert len(board.changes) == 1


def test_ide_disks_take_the_channels_that_every_vm_has() -> None:
    board = Board()
    _attach(board, "ide", 4)
    assert _places(board) == [(200, 0), (200, 1), (201, 0), (201, 1)]


def test_a_disk_is_never_shorter_than_the_source() -> None:
    assert [capacity_kib(size) for size in (1024, 1025, 4 * 2**20 + 512)] == [1, 2, 4097]


def test_new_addresses_are_among_those_that_vsphere_lets_be_set() -> None:
    for _ in range(50):
        parts = [int(part, 16) for part in new_mac("00:50:56").split(":")]
        assert parts[:3] == [0x00, 0x50, 0x56]
        assert parts[3] <= 0x3F
