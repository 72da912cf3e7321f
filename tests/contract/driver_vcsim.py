"""The ESXi driver on vcsim, VMware's own simulator, for what it can.

Its disks hold no bytes, and a snapshot gives no new name to a leaf; it has no limit of snapshots, neither
ConsolidateVMDisks_Task nor CreateScreenshot_Task, and takes two VMs of one name. So a test that reads or writes a disk
is skipped here, and no other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from bootpoint_worker.targets.esxi.target import EsxiTarget
from bootpoint_worker.targets.host import HostAccess, VirtualMachine
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from tests.contract.drivers import Driver
from tests.esxi.vcsim import vcsim

#: Why a test is skipped.
NO_BYTES = "vcsim's disks hold no bytes"


class Vcsim(enum.Enum):
    """What vcsim pretends to be."""

    #: An ESXi host.
    HOST = "host"
    #: A vCenter, with a network of a distributed switch.
    CENTER = "vcenter"


@dataclass(frozen=True, slots=True)
class VcsimHooks:
    """What a test does to a vcsim behind the driver's back."""

    access: HostAccess

    def kill_writers(self) -> None:
        skip()

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        skip()

    def add_vm(self, name: str) -> None:
        from pyVmomi import vim

        with closing(EsxiTarget(access=self.access)) as target:
            client = target.host.client
            [(_, found)] = client.read_all("Datacenter", "vmFolder")
            pool = client.read_all("ResourcePool", "name")[0][0]
            files = vim.vm.FileInfo(vmPathName="[LocalDS_0]")
            spec = vim.vm.ConfigSpec(name=name, guestId="otherGuest64", numCPUs=1, memoryMB=32, files=files)
            client.run(lambda: found["vmFolder"].CreateVM_Task(config=spec, pool=pool))

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        skip()


def skip(*_: object, **__: object) -> NoReturn:
    """End a test that would read or write a disk."""
    pytest.skip(NO_BYTES)


@contextmanager
def vcsim_driver(directory: Path, kind: Vcsim, **settings: str) -> Iterator[Driver]:
    """Give the driver with a vcsim of its own.

    Args:
        directory: For its log and its files.
        kind: What it pretends to be.
        settings: Settings of the host in bootpoint.
    """
    network, flags = ("VM Network", ()) if kind is Vcsim.HOST else ("DC0_DVPG0", ("-vcenter",))
    with vcsim(directory, *flags) as simulator:
        access = simulator.access(**settings)
        yield Driver(
            "vcsim", lambda: EsxiTarget(access=access), VcsimHooks(access), "LocalDS_0", network, carries_tests=False
        )
