"""nbdkit with its real vddk plugin reads and writes the stand-in's disks, and is refused what a host refuses."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbd
import pytest
from pyVmomi import vim

from bootpoint_common.units import MiB
from tests.esxi.client import DISK, Client, leaves
from tests.esxi.server import Esxi
from tests.esxi.session import User
from tests.esxi.world import ROOT
from tests.service.component import need
from tests.service.process import Server, wait_for
from tests.service.vddk import serving, vddk

#: Runs nbdkit for a file of a machine, by default its disk's, while a block lasts.
Serve = Callable[..., Any]


@pytest.fixture
def serve(host: Esxi, tmp_path: Path) -> Serve:
    need("vddk", "libnbd", "qemu-nbd")
    tools = vddk()

    @contextmanager
    def run(machine: Any, file: str | None = None, **parameters: str) -> Iterator[Server]:
        chosen = {
            "server": "127.0.0.1", "port": str(host.port), "user": ROOT.name, "password": ROOT.password,
            "thumbprint": host.thumbprint, "vm": f"moref={machine._moId}", "transports": "nbdssl:nbd",
            "file": file or leaves(machine)[0],
        } | parameters  # fmt: skip
        (tmp_path / "nbdkit.log").unlink(missing_ok=True)
        with serving(tools, tmp_path, **chosen) as server:
            yield server
        # A signal ends nbdkit without a word to its plugin, and then the host learns it by the connection's end.
        wait_for(lambda: not host.world.leases.current, "the disk to be closed")

    return run


@contextmanager
def connected(directory: Path) -> Iterator[Any]:
    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_unix(str(directory / "disk.sock"))
    yield handle
    handle.shutdown()


def fill(disk: Any, mebibytes: int) -> None:
    for number in range(mebibytes):
        disk.pwrite(b"x" * MiB, number * MiB)
    disk.flush()


def test_each_snapshot_keeps_what_was_written_before_it(client: Client, serve: Serve, tmp_path: Path) -> None:
    machine = client.create()
    for number in (1, 2):
        with serve(machine), connected(tmp_path) as disk:
            assert disk.get_size() == DISK
            assert not disk.can_multi_conn()
            disk.pwrite(bytes([number]) * MiB, number * MiB)
            disk.flush()
        client.snapshot(machine, f"V{number}")

    (first,) = machine.snapshot.rootSnapshotList
    (second,) = first.childSnapshotList
    for point, expected in ((first, (1, 0)), (second, (1, 2))):
        (file,) = leaves(point.snapshot)
        with serve(machine, file, readonly="1", snapshot=point.snapshot._moId), connected(tmp_path) as disk:
            assert disk.is_read_only()
            assert tuple(disk.pread(MiB, number * MiB)[-1] for number in (1, 2)) == expected


def test_what_was_never_written_is_known_to_be_zero(client: Client, serve: Serve, tmp_path: Path) -> None:
    machine = client.create()
    with serve(machine), connected(tmp_path) as disk:
        disk.pwrite(b"x" * MiB, 2 * MiB)
        found: list[tuple[int, int]] = []

        def note(_context: str, _offset: int, entries: list[int], _error: Any) -> None:
            found.extend(zip(entries[::2], entries[1::2], strict=True))

        while (at := sum(length for length, _ in found)) < DISK:
            disk.block_status(DISK - at, at, note)
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    assert found == [(2 * MiB, hole), (MiB, 0), (DISK - 3 * MiB, hole)]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"password": "wrong"}, "VixDiskLib_ConnectEx: Insufficient permissions in the host operating system"),
        ({"thumbprint": "00:11"}, "VixDiskLib_ConnectEx: Cannot connect to host"),
        ({"vm": "moref=99"}, "VixDiskLib_ConnectEx: The virtual machine cannot be found"),
        ({"file": "[datastore1] standby/standby-000009.vmdk"}, "standby-000009.vmdk: A file was not found"),
        ({"user": "reader", "password": "pw"}, "DiskRandomAccess"),
    ],
    ids=["password", "thumbprint", "machine", "file", "rights"],
)
def test_what_a_host_refuses_is_in_the_log(
    client: Client, serve: Serve, tmp_path: Path, *, parameters: dict[str, str], reason: str
) -> None:
    reads = frozenset({"VirtualMachine.Provisioning.DiskRandomRead"})
    client.host.world.sessions.users.append(User("reader", "pw", reads))
    machine = client.create()
    with serve(machine, **parameters):
        with pytest.raises(nbd.Error), connected(tmp_path):
            pass
        assert reason in (tmp_path / "nbdkit.log").read_text()
    assert client.host.world.leases.history == []


def test_a_disk_in_use_is_locked_on_both_sides(client: Client, serve: Serve, tmp_path: Path) -> None:
    machine = client.create()
    with serve(machine), connected(tmp_path):
        with pytest.raises(nbd.Error), connected(tmp_path):
            pass
        for task in (machine.PowerOnVM_Task(), machine.CreateSnapshot_Task("V1", None, False, False)):
            with pytest.raises(vim.fault.FileLocked):
                client.result(task)
    client.result(machine.PowerOnVM_Task())
    with serve(machine):
        with pytest.raises(nbd.Error), connected(tmp_path):
            pass
        assert "The file is already in use" in (tmp_path / "nbdkit.log").read_text()


def test_a_killed_nbdkit_lets_go_of_its_disk(client: Client, serve: Serve, tmp_path: Path) -> None:
    machine = client.create()
    with serve(machine) as server, connected(tmp_path) as disk:
        fill(disk, 1)
        assert client.host.world.leases.current
        server.stop(signal.SIGKILL)
    client.snapshot(machine, "V1")


def test_a_full_datastore_fails_a_write(client: Client, serve: Serve, tmp_path: Path) -> None:
    machine = client.create()
    (datastore,) = client.host.world.datastores
    datastore.capacity_bytes -= datastore.free_bytes - 4 * MiB
    with serve(machine), connected(tmp_path) as disk:
        with pytest.raises(nbd.Error):
            fill(disk, 8)
        assert "the disk is full" in (tmp_path / "nbdkit.log").read_text()


def test_a_host_that_goes_fails_a_write_and_is_written_to_again_when_it_is_back(
    client: Client, serve: Serve, tmp_path: Path
) -> None:
    machine = client.create()
    file = leaves(machine)[0]
    with serve(machine), connected(tmp_path) as disk:
        fill(disk, 1)
        client.host.cut()
        with pytest.raises(nbd.Error):
            fill(disk, 1)
    client.host.start()
    with serve(machine, file), connected(tmp_path) as disk:
        fill(disk, 1)
