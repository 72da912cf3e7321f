"""The ESXi driver on vcsim, VMware's own simulator; what it can't be tried with is listed in `vcsim_limit`."""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_worker.targets.esxi import fence
from bootpoint_worker.targets.esxi.datastore import split
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING
from bootpoint_worker.targets.esxi.target import EsxiTarget
from bootpoint_worker.targets.host import HostAccess, VirtualMachine
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from tests.contract.drivers import Driver
from tests.esxi.vcsim import Vcsim as Simulator
from tests.esxi.vcsim import vcsim
from tests.service.component import need
from tests.service.vddk import vddk

#: The only datastore of each kind.
DATASTORE = "LocalDS_0"


class Vcsim(enum.Enum):
    """What vcsim pretends to be."""

    #: An ESXi host.
    HOST = "host"
    #: A vCenter, with a network of a distributed switch.
    CENTER = "vcenter"


@dataclass(frozen=True, slots=True)
class VcsimHooks:
    """What a test does to a vcsim behind the driver's back."""

    simulator: Simulator
    access: HostAccess

    def kill_writers(self) -> None:
        for pid in fence.servers():
            os.kill(pid, signal.SIGKILL)

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        self._locate(layer.identity).unlink()

    def add_vm(self, name: str) -> None:
        from pyVmomi import vim

        with closing(EsxiTarget(access=self.access)) as target:
            client = target.host.client
            [(_, found)] = client.read_all("Datacenter", "vmFolder")
            pool = client.read_all("ResourcePool", "name")[0][0]
            files = vim.vm.FileInfo(vmPathName=f"[{DATASTORE}]")
            spec = vim.vm.ConfigSpec(name=name, guestId="otherGuest64", numCPUs=1, memoryMB=32, files=files)
            client.run(lambda: found["vmFolder"].CreateVM_Task(config=spec, pool=pool))

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        number = [disk.slot for disk in replica.disks].index(slot)
        with closing(EsxiTarget(access=self.access)) as target:
            found = next(each for each in target.host.machines() if each.name == vm.name)
            drive = target.host.state(found).drives[number]
        descriptor = self._locate(drive.file)
        with descriptor.with_name(f"{descriptor.stem}-flat.vmdk").open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def _locate(self, path: str) -> Path:
        """Return where a file of the datastore lies."""
        [directory] = self.simulator.files.glob(f"*{DATASTORE}*")
        return directory / split(path)[1]


@contextmanager
def vcsim_driver(directory: Path, kind: Vcsim) -> Iterator[Driver]:
    """Give the driver with a vcsim of its own.

    Args:
        directory: For its log and its files.
        kind: What it pretends to be.
    """
    need("libnbd", "nbdkit", "qemu-nbd")
    parts = vddk()
    means = {PLUGIN_SETTING: str(parts.plugin), LIBDIR_SETTING: str(parts.libdir)}
    network, flags = ("VM Network", ()) if kind is Vcsim.HOST else ("DC0_DVPG0", ("-vcenter",))
    with vcsim(directory, *flags) as simulator:
        access = simulator.access(**means)
        hooks = VcsimHooks(simulator, access)
        yield Driver("vcsim", lambda: EsxiTarget(access=access), hooks, DATASTORE, network, carries_tests=False)
