"""Disks of a Hyper-V host, read, written and served over a real Samba; their files are made by the tests' own hand."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import NoReturn

import pytest

from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.units import KiB, MiB
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.hyperv import data
from bootpoint_worker.targets.hyperv.host import Host
from bootpoint_worker.targets.hyperv.hypervisor import HyperV
from bootpoint_worker.targets.snapshots.vm import Disk, Vm
from bootpoint_worker.vhdx.image import identify
from tests.contract.test_target import _write_through
from tests.hyperv import avhdx
from tests.hyperv.readers import by_dissect
from tests.service.samba import SambaServer

SIZE = 9 * MiB + 12 * KiB


@pytest.fixture
def host(samba_server: SambaServer) -> Iterator[Host]:
    access = HostAccess(
        name="hv1",
        kind="hyperv",
        address=samba_server.address,
        port=5986,
        user=samba_server.username,
        password=samba_server.password,
        settings={"smb_port": samba_server.port},
    )
    made = HyperV(access)
    yield made
    made.close()


@pytest.fixture
def folder(samba_server: SambaServer, tmp_path: Path) -> Path:
    """A folder of the host's drive D, by its name there: the same as on this machine."""
    made = samba_server.shares["D$"] / tmp_path.name
    made.mkdir()
    return made


def disk_of(host: HyperV, path: Path) -> Disk:
    vm = Vm("1", "erp", False, f"D:\\{path.parent.name}", "1", None, None, 0, entity=host.session)
    return Disk(vm, f"D:\\{path.parent.name}\\{path.name}", None, SIZE)


def chain(folder: Path, length: int) -> list[Path]:
    """Make a base and children, each with some bytes of its own."""
    files = [folder / "system.vhdx"]
    avhdx.create_dynamic(files[0], SIZE)
    for number in range(length):
        with avhdx.Vhdx(files[-1], writable=True) as disk:
            disk.write(number * MiB, bytes([number + 1]) * 2 * MiB)
        files.append(folder / f"system_{number}.avhdx")
        path = f"D:\\{folder.name}\\{files[-2].name}"
        avhdx.create_child(files[-1], files[-2], windows_path=path)
    return files


def nothing() -> NoReturn:
    raise Fenced("somebody else has it")


def test_what_is_written_into_a_leaf_is_what_others_read_there(host: HyperV, folder: Path) -> None:
    files, random = chain(folder, 3), Random(3)
    expected = bytearray(by_dissect(files[-1], 0, SIZE))
    with closing(data.open_writer(host, disk_of(host, files[-1]), nothing)) as writer:
        for _ in range(40):
            offset = random.randrange(SIZE // 4096) * 4096
            piece = random.randbytes(min(SIZE - offset, 4096 * random.randrange(1, 40)))
            writer.write(offset, piece)
            expected[offset : offset + len(piece)] = piece
        writer.zero(MiB, 64 * KiB)
        expected[MiB : MiB + 64 * KiB] = bytes(64 * KiB)
        assert writer.read(0, SIZE) == expected
        writer.flush()
    assert by_dissect(files[-1], 0, SIZE) == expected
    with closing(data.open_reader(host, disk_of(host, files[-1]))) as reader:
        assert reader.read(0, SIZE) == expected
        assert b"".join(bytes(piece) for _, piece in reader.stream([(0, SIZE)])) == expected


def test_a_leaf_has_one_writer_and_its_parents_any_number_of_readers(host: HyperV, folder: Path) -> None:
    files = chain(folder, 2)
    with (
        closing(data.open_writer(host, disk_of(host, files[-1]), nothing)) as writer,
        closing(data.open_reader(host, disk_of(host, files[-2]))) as reader,
    ):
        writer.write(0, b"x" * 4096)
        writer.flush()
        assert reader.read(0, 4096) == b"\x01" * 4096
        with pytest.raises(BootpointError) as caught:
            data.open_writer(host, disk_of(host, files[-1]), nothing)
        assert caught.value.code is Code.BUSY


def test_a_writer_whose_host_is_gone_says_what_was_found_out(
    host: HyperV, folder: Path, samba_server: SambaServer
) -> None:
    files = chain(folder, 1)
    writer = data.open_writer(host, disk_of(host, files[-1]), nothing)
    writer.write(0, b"a" * 4096)
    writer.flush()
    samba_server.cut()
    samba_server.start()
    for _ in range(2):
        with pytest.raises(Fenced):
            _write_through(writer, 4096, b"late" * 1024)
    writer.close()
    assert by_dissect(files[-1], 0, 8192) == b"a" * 4096 + b"\x01" * 4096


def test_a_torn_leaf_is_not_gone_on_with(host: HyperV, folder: Path) -> None:
    leaf = chain(folder, 1)[-1]
    raw = bytearray(leaf.read_bytes())
    for header in (64 * KiB, 128 * KiB):  # [MS-VHDX] 2.2: both headers
        raw[header + 8] ^= 1
    leaf.write_bytes(raw)
    with pytest.raises(BootpointError) as caught:
        data.open_writer(host, disk_of(host, leaf), nothing)
    assert caught.value.code is Code.TORN_LEAF


def test_a_parent_that_was_written_since_is_refused(host: HyperV, folder: Path) -> None:
    files = chain(folder, 2)
    with avhdx.Vhdx(files[0], writable=True) as disk:
        disk.write(0, b"somebody" * 64)
    for act in (data.open_reader, lambda host, disk: data.open_writer(host, disk, nothing)):
        with pytest.raises(BootpointError) as caught:
            act(host, disk_of(host, files[-1]))
        assert caught.value.code in (Code.TARGET_CHECK_FAILED, Code.TORN_LEAF)


def test_a_missing_parent_is_named(host: HyperV, folder: Path) -> None:
    files = chain(folder, 2)
    files[0].unlink()
    with pytest.raises(BootpointError) as caught:
        data.open_reader(host, disk_of(host, files[-1]))
    assert caught.value.code is Code.LAYER_LOST
    assert files[0].name in caught.value.message


def test_a_disk_is_served_to_programs_of_this_machine(host: HyperV, folder: Path, tmp_path: Path) -> None:
    files = chain(folder, 2)
    before = by_dissect(files[-1], 0, SIZE)
    with host.served(disk_of(host, files[-1])) as socket:
        copy = tmp_path / "copy"
        command = ["qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///?socket={socket}", str(copy)]
        subprocess.run(command, check=True)
        assert copy.read_bytes() == before
    with host.served(disk_of(host, files[-1]), writable=True) as socket:
        command = ["qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", f"nbd+unix:///?socket={socket}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert by_dissect(files[-1], MiB, 64 * KiB) == b"\x07" * 64 * KiB
    opened = host.session.files.open(disk_of(host, files[-1]).file)
    with closing(opened):
        assert identify(opened).log_empty
