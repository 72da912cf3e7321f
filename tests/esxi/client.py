"""A client of the stand-in for the stand-in's own tests: pyVmomi, as anybody would use it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyVmomi import SoapStubAdapter, vim

from bootpoint_common.units import MiB
from tests.esxi.server import ADDRESS, Esxi, speak_old_tls
from tests.esxi.world import ROOT
from tests.service.process import wait_for

Device = vim.vm.device
Change = Device.VirtualDeviceSpec

#: Size of a disk of the tests.
DISK = 16 * MiB


@dataclass(frozen=True, slots=True)
class Client:
    """A session.

    Attributes:
        host: Whose.
        service: The service instance.
    """

    host: Esxi
    service: Any

    @property
    def datacenter(self) -> Any:
        """The only datacenter."""
        return self.service.content.rootFolder.childEntity[0]

    @property
    def pool(self) -> Any:
        """The root of the resource pools."""
        return self.datacenter.hostFolder.childEntity[0].resourcePool

    def result(self, task: Any) -> Any:
        """Wait for a task, and return its result.

        Raises:
            vmodl.MethodFault: Its error.
        """
        wait_for(lambda: task.info.state in {"success", "error"}, "a task")
        if task.info.error:
            raise task.info.error
        return task.info.result

    def create(self, name: str = "standby", *, disks: int = 1, **options: Any) -> Any:
        """Make a machine with a paravirtual SCSI adapter and a network card."""
        spec = machine_spec(name, disks=disks, **options)
        return self.result(self.datacenter.vmFolder.CreateVM_Task(spec, self.pool))

    def snapshot(self, machine: Any, name: str) -> Any:
        """Make a snapshot."""
        return self.result(machine.CreateSnapshot_Task(name=name, memory=False, quiesce=False))


def machine_spec(name: str, *, disks: int = 1, size_bytes: int = DISK, **options: Any) -> Any:
    """Return what a machine is made from; options are `ConfigSpec`'s."""
    controller = Device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    card = Device.VirtualVmxnet3(
        key=-2, backing=Device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network"), addressType="generated"
    )
    changes = [Change(operation="add", device=controller), Change(operation="add", device=card)]
    for number in range(disks):
        backing = Device.VirtualDisk.FlatVer2BackingInfo(diskMode="persistent", thinProvisioned=True, fileName="")
        disk = Device.VirtualDisk(key=-10 - number, controllerKey=-1, capacityInBytes=size_bytes, backing=backing)
        disk.capacityInKB = size_bytes // 1024
        changes.append(Change(operation="add", fileOperation="create", device=disk))
    files = vim.vm.FileInfo(vmPathName="[datastore1]")
    chosen = {"guestId": "otherLinux64Guest", "numCPUs": 1, "memoryMB": 256, "files": files} | options
    return vim.vm.ConfigSpec(name=name, deviceChange=changes, **chosen)


def leaves(machine: Any) -> list[str]:
    """Return the files that a machine's disks are written to."""
    return [each.backing.fileName for each in machine.config.hardware.device if isinstance(each, Device.VirtualDisk)]


@contextmanager
def connect(
    host: Esxi, user: str = ROOT.name, password: str = ROOT.password, *, old_tls: bool = False
) -> Iterator[Client]:
    """Log in, and out in the end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if old_tls:
        speak_old_tls(context)
    stub = SoapStubAdapter(host=ADDRESS, port=host.port, version=host.world.guise.spoken, sslContext=context)
    service = vim.ServiceInstance("ServiceInstance", stub)
    try:
        service.content.sessionManager.Login(user, password, None)
        yield Client(host, service)
        with contextlib.suppress(vim.fault.NotAuthenticated, OSError):
            service.content.sessionManager.Logout()
    finally:
        stub.DropConnections()
