"""The Hyper-V driver for the contract suite: our own host with the real module, its files on a real Samba."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.host import HostAccess, VirtualMachine
from bootpoint_worker.targets.hyperv import connect
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from tests.contract.drivers import Driver
from tests.hyperv import checkpoint
from tests.hyperv.host import Host
from tests.service.component import need

#: The virtual switch that replicas are tried on.
NETWORK = "LAN"

#: The volume.
STORAGE = "D:"

#: What the host pretends to be.
GUISES = ("2012r2", "2016", "2019", "2022")


def access_to(host: Host) -> HostAccess:
    """Return how the driver reaches a host."""
    settings = {"winrm": "tls" if host.winrm.tls else "http", "smb_port": host.samba.port}
    return HostAccess(
        name="contract",
        kind="hyperv",
        address=host.address,
        port=host.winrm.port,
        user=host.username,
        password=host.password,
        fingerprint=fetch_fingerprint(host.address, host.winrm.port) if host.winrm.tls else None,
        settings=settings,
    )


@dataclass(frozen=True, slots=True)
class HyperVHooks:
    """What a test does to a Hyper-V host behind the driver's back."""

    host: Host
    access: HostAccess

    def kill_writers(self) -> None:
        """End every connection to the volume, as a reboot of a switch does."""
        self.host.samba.control("close-share", "D$")

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        """Apply the newest checkpoint, as somebody may in Hyper-V Manager."""
        newest = self.host.machine(replica.vm_name)._parent
        assert newest is not None
        checkpoint.restore(self.host, newest)

    def add_vm(self, name: str) -> None:
        self.host.vmms.create(name, "D:\\others", 1)

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        number = [disk.slot for disk in replica.disks].index(slot)
        self.host.guest_write(self.host.machine(vm.name), number, offset, data)


@contextmanager
def hyperv(directory: Path, guise: str = "2022", *, tls: bool = False) -> Iterator[Driver]:
    """Give the driver with a host of its own.

    Args:
        directory: A directory for it.
        guise: Which release it is.
        tls: Whether orders go by TLS, else by NTLM's own encryption.
    """
    need("root", "samba", "qemu-img", "nbdkit")
    with Host(directory / "hyperv", guise, tls=tls) as host:
        access = access_to(host)
        yield Driver(
            "hyperv", partial(connect, access), HyperVHooks(host, access), STORAGE, NETWORK, carries_tests=False
        )


@pytest.fixture(params=GUISES)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """The driver in each guise, in place of the fixture of that name in a module of the suite."""
    with hyperv(tmp_path, request.param) as made:
        yield made
