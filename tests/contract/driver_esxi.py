"""The ESXi driver for the contract suite: our own host, the real nbdkit with its vddk plugin, a stand-in for VDDK."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from bootpoint_common.units import GiB
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.esxi import connect, fence
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING
from bootpoint_worker.targets.esxi.target import EsxiTarget
from bootpoint_worker.targets.host import HostAccess, VirtualMachine
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from tests.contract.drivers import Driver
from tests.esxi import chain
from tests.esxi.client import connect as log_in
from tests.esxi.client import leaves
from tests.esxi.server import ADDRESS, Esxi
from tests.esxi.world import ROOT
from tests.service.component import need
from tests.service.vddk import vddk as fetched

#: The port group that replicas are tried on.
NETWORK = "VM Network"

#: What the host pretends to be: releases of ESXi, and one behind a vCenter.
GUISES = ("6.7", "7.0", "8.0", "vcenter")


def access_to(host: Esxi) -> HostAccess:
    """Return how the driver reaches a host."""
    parts = fetched()
    return HostAccess(
        name="contract",
        kind="esxi",
        address=ADDRESS,
        port=host.port,
        user=ROOT.name,
        password=ROOT.password,
        fingerprint=fetch_fingerprint(ADDRESS, host.port),
        settings={PLUGIN_SETTING: str(parts.plugin), LIBDIR_SETTING: str(parts.libdir)},
    )


@dataclass(frozen=True, slots=True)
class EsxiHooks:
    """What a test does to an ESXi host behind the driver's back."""

    host: Esxi
    access: HostAccess

    def kill_writers(self) -> None:
        for pid in fence.servers():
            os.kill(pid, signal.SIGKILL)

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        """Revert the VM twice, as somebody may in the vSphere client: its new leaf has the name of the lost one."""
        with log_in(self.host) as client:
            (vm,) = (each for each in client.datacenter.vmFolder.childEntity if each.name == replica.vm_name)
            for _ in range(2):
                client.result(vm.RevertToCurrentSnapshot_Task())
            assert layer.identity in leaves(vm)

    def add_vm(self, name: str) -> None:
        with log_in(self.host) as client:
            client.create(name)

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        number = [disk.slot for disk in replica.disks].index(slot)
        with closing(EsxiTarget(access=self.access)) as target:
            found = next(each for each in target.host.machines() if each.name == vm.name)
            drives = target.host.state(found).drives
        extent = chain.read_link(self.host.world.locate(drives[number].file)).extent
        with tempfile.NamedTemporaryFile() as raw:
            raw.write(data)
            raw.flush()
            command = f"write -s {raw.name} {offset} {len(data)}"
            done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, extent], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def esxi(directory: Path, guise: str = "8.0", *, runs_guests: bool = False) -> Iterator[Driver]:
    """Give the driver with a host of its own.

    Args:
        directory: A directory for it.
        guise: Which release it is, or that it is a vCenter.
        runs_guests: Whether its machines are run when they are started.
    """
    need("libnbd", "nbdkit", "qemu-img", "qemu-nbd")
    with Esxi(directory / "esxi", guise, datastores={"datastore1": 8 * GiB}, runs_guests=runs_guests) as host:
        access = access_to(host)
        hooks = EsxiHooks(host, access)
        yield Driver("esxi", partial(connect, access), hooks, "datastore1", NETWORK, carries_tests=False)


@pytest.fixture(params=GUISES)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """The driver in each guise, in place of the fixture of that name in a module of the suite."""
    with esxi(tmp_path, request.param) as made:
        yield made
