"""The KVM driver for the contract suite: a local session, real libvirt, qemu-img and qemu-nbd."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

from bootpoint_worker.targets.host import HostAccess, VirtualMachine
from bootpoint_worker.targets.kvm import connect
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from tests.contract.drivers import Driver
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.nbd import servers_in

FOREIGN = "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
POOL = "<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"


@cache
def shared_host() -> LibvirtHost:
    """Return one libvirtd for all tests of the suite; it ends with the process."""
    directory = Path(tempfile.mkdtemp(prefix="bpk-", dir="/tmp"))
    directory.chmod(0o755)
    host = LibvirtHost(directory)
    host.start()

    def end() -> None:
        host.stop()
        shutil.rmtree(directory, ignore_errors=True)

    atexit.register(end)
    return host


@dataclass(frozen=True, slots=True)
class KvmHooks:
    """What a test does to a KVM host behind the driver's back."""

    host: LibvirtHost
    storage: Path

    def kill_writers(self) -> None:
        for pid in servers_in(self.storage):
            os.kill(pid, signal.SIGKILL)

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        (self.storage / replica.folder / replica.vm_name / layer.identity).unlink()

    def add_vm(self, name: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(FOREIGN.format(name=name))
            file.flush()
            self.host.virsh("define", file.name)

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        number = [disk.slot for disk in replica.disks].index(slot)
        xml = ET.fromstring(self.host.virsh("dumpxml", vm.name))
        file = xml.findall("./devices/disk/source")[number].get("file")
        assert file is not None
        with tempfile.NamedTemporaryFile() as raw:
            raw.write(data)
            raw.flush()
            command = f"write -s {raw.name} {offset} {len(data)}"
            done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, file], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def kvm(directory: Path) -> Iterator[Driver]:
    """Give the driver with a storage pool of its own."""
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    host = shared_host()
    # Guests run as libvirt-qemu, which can't enter pytest's directories.
    with tempfile.TemporaryDirectory(prefix="bpk-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        storage = Path(name)
        storage.chmod(0o711)
        definition = directory / "pool.xml"
        definition.write_text(POOL.format(name=storage.name, path=storage))
        host.virsh("pool-define", str(definition))
        host.virsh("pool-start", storage.name)
        access = HostAccess(
            name="contract",
            kind="kvm",
            address="local",
            port=0,
            user="root",
            settings={"virt_type": "qemu", "libvirt_socket": str(host.socket)},
        )
        try:
            yield Driver("kvm", lambda: connect(access), KvmHooks(host, storage), storage.name)
        finally:
            for domain in host.virsh("list", "--all", "--name").split():
                if str(storage) in host.virsh("dumpxml", domain):
                    _end(host, domain)
            host.virsh("pool-destroy", storage.name)
            host.virsh("pool-undefine", storage.name)


def _end(host: LibvirtHost, domain: str) -> None:
    if host.virsh("domstate", domain).strip() == "running":
        host.virsh("destroy", domain)
    host.virsh("undefine", domain)


FACTORY = kvm

__all__ = ["FACTORY", "KvmHooks", "kvm", "servers_in", "shared_host"]
