"""What can be seen of a test VM on a KVM host: screen, firmware, disks, resets; locally and over SSH."""

from __future__ import annotations

import os

import pytest

from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.kvm.picture import SIGNATURE
from bootpoint_worker.targets.sight import SERIAL_TAIL, Sight
from tests.integration.kvm.conftest import Bench
from tests.service.process import wait_for


@pytest.mark.parametrize(("way", "times"), [("bench", 8), ("ssh", 2)])
def test_a_machine_without_a_boot_sector_shows_itself(request: pytest.FixtureRequest, way: str, times: int) -> None:
    bench: Bench = request.getfixturevalue(way)
    target = bench.connect()
    target.create(bench.replica)
    bench.point(target, None, bytes(GRAIN))
    assert target.look(bench.replica, "t1").state == "absent"
    vm = target.start(bench.replica, StartRequest(test_id="t1"))

    def seen() -> Sight | None:
        sight = target.look(bench.replica, "t1")
        told = [text for text in (sight.text or "", sight.firmware) if "No bootable device" in text]
        return sight if len(told) == 2 else None

    sight = wait_for(seen, "the firmware to give up")
    assert sight is not None
    assert (sight.state, sight.resets, sight.agent) == ("running", 0, False)
    assert 512 <= sight.read_bytes < GRAIN
    assert sight.written_bytes == 0
    assert sight.cpu_seconds > 0
    assert sight.picture is not None
    assert sight.picture.startswith(SIGNATURE)
    # The picture stands still, and so it stays the same to the byte.
    assert wait_for(lambda: target.look(bench.replica, "t1").picture == sight.picture, "the same picture")

    resets: list[int] = []

    def again() -> bool:
        """Note how many resets were seen once the firmware has given up anew."""
        sight = target.look(bench.replica, "t1")
        if sight.resets <= len(resets) or not sight.firmware.rstrip().endswith("No bootable device."):
            return False
        resets.append(sight.resets)
        return True

    for number in range(1, times + 1):
        bench.host.virsh("reset", vm.name)
        wait_for(again, f"reset {number} to be seen")
    assert resets == list(range(1, times + 1))
    memory = target.inspect_host().running_memory_bytes
    assert memory >= bench.replica.memory_bytes
    bench.host.virsh("destroy", vm.name)
    off = target.look(bench.replica, "t1")
    assert (off.state, off.why) == ("off", "destroyed")
    assert "No bootable device" in off.firmware
    target.stop(bench.replica, "t1")
    assert target.look(bench.replica, "t1").state == "absent"
    assert not list(bench.directory.glob("test-*"))


def test_a_machine_with_uefi_that_starts_the_same_entry_again_was_reset(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    log = bench.directory / "test-t1.serial.log"
    one = '\x1b[2J\x1b[01;01HBdsDxe: loading Boot0001 "disk"\r\nBdsDxe: starting Boot0001 "disk"\r\n'
    other = 'BdsDxe: starting Boot0002 "another disk"\r\n'
    for said, resets in ((one, 0), (one + other, 0), (one + other + one, 1), (one * 4, 3)):
        log.write_text(said)
        assert target.look(bench.replica, "t1").resets == resets
    log.write_bytes(b"x" * SERIAL_TAIL + "\n\xfflast line".encode("latin-1"))
    sight = target.look(bench.replica, "t1")
    assert sight.serial.endswith("last line")
    assert len(sight.serial) <= SERIAL_TAIL
    log.unlink()


def test_a_test_s_serial_port_can_be_used_while_it_is_written_down(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    bench.point(target, None, bytes(GRAIN))
    vm = target.start(bench.replica, StartRequest(test_id="t1"))
    assert bench.host.virsh("ttyconsole", vm.name).strip().startswith("/dev/pts/")
    assert "org.qemu.guest_agent.0" in bench.host.virsh("dumpxml", vm.name)
    assert (bench.directory / "test-t1.serial.log").exists()
    target.remove(bench.replica)
    assert not bench.directory.exists()


def test_plain_directories_in_use_are_storages_of_the_host(bench: Bench) -> None:
    there, gone = bench.replica.storage, f"{bench.replica.storage}/nowhere"
    found = {storage.name: storage for storage in bench.connect().inspect_host([there, gone, "default"]).storages}
    assert gone not in found, "of what isn't there nobody knows that it is full"
    seen = os.statvfs(there)
    assert (found[there].path, found[there].size_bytes) == (there, seen.f_blocks * seen.f_frsize)
    assert 0 < found[there].free_bytes <= found[there].size_bytes
    assert there not in {storage.name for storage in bench.connect().inspect_host().storages}
