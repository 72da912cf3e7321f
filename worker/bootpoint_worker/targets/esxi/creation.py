"""Making the standby's VM on a host, after everything was checked."""

from __future__ import annotations

import re
from typing import Any

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi import compute, hardware
from bootpoint_worker.targets.esxi.datastore import Datastore, is_there, join, split
from bootpoint_worker.targets.esxi.host import MAC_PREFIX, Host
from bootpoint_worker.targets.replica import Nic, Replica

#: Characters that a name may have: neither vSphere's escapes (``%2f``) nor what a path means something by.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}")

#: MAC addresses that vSphere lets be set by hand.
_MAC = re.compile(MAC_PREFIX + r":[0-3][0-9a-f](:[0-9a-f]{2}){2}", re.IGNORECASE)


def check(host: Host, replica: Replica) -> None:
    """Look whether a replica can be made here; see `Host.check`."""
    _check_spec(host, replica)
    compute.find_compute(host, host.store(replica.storage), replica)
    hardware.networks(host, replica)


def _check_spec(host: Host, replica: Replica) -> None:
    for key, name in (("vm.name", replica.vm_name), *(("storage.disk_name", disk.disk_name) for disk in replica.disks)):
        if _NAME.fullmatch(name) is None:
            text = f"{name!r} can't name files of a datastore: use letters, digits, space and . _ + -"
            raise host.problem(Code.SPEC_INVALID, text, replica, key=key, value=name)
    if len({disk.disk_name for disk in replica.disks}) != len(replica.disks):
        raise host.problem(Code.SPEC_INVALID, "two disks have the same disk_name", replica, key="storage.disk_name")
    for disk in replica.disks:
        if disk.bus not in hardware.CONTROLLERS:
            raise _unsupported(host, replica, "storage.bus", disk.bus, hardware.CONTROLLERS)
        if disk.sector_bytes != 512:
            text = f"disk {disk.slot} has sectors of {disk.sector_bytes} bytes; disks of vSphere have 512"
            raise host.problem(Code.HOST_UNSUPPORTED, text, replica, key=disk.slot, value=disk.sector_bytes)
    for nic in replica.nics:
        if nic.model not in hardware.NIC_KINDS:
            raise _unsupported(host, replica, "nic.model", nic.model, hardware.NIC_KINDS)
        _check_mac(host, replica, nic)


def _check_mac(host: Host, replica: Replica, nic: Nic) -> None:
    if _MAC.fullmatch(nic.mac) is None:
        raise host.problem(
            Code.SPEC_INVALID,
            f"vSphere lets no card have the MAC address {nic.mac}",
            replica,
            key="nic.mac",
            value=nic.mac,
            hint='choose one from 00:50:56:00:00:00 to 00:50:56:3f:ff:ff, or mac = "new"',
        )


def _unsupported(host: Host, replica: Replica, key: str, value: str, served: dict[str, Any]) -> BootpointError:
    names = ", ".join(served)
    text = f"host {host.name} has no {value!r} for {key}; there are: {names}"
    return host.problem(Code.HOST_UNSUPPORTED, text, replica, key=key, value=value, hint=f"choose one of {names}")


def make(host: Host, replica: Replica) -> None:
    """Make the standby VM with its folder and disks; see `Host.make`."""
    store = host.store(replica.storage)
    running = compute.find_compute(host, store, replica)
    networks = hardware.networks(host, replica)
    guest = hardware.guest_id(None, compute.guests(host, running.browser))
    directories = _folders(store, replica)
    for directory in directories:
        wanted = hardware.Wanted(replica, replica.vm_name, directory, guest, networks)
        if _create(host, running, wanted, last=directory == directories[-1]):
            break


def _create(host: Host, running: compute.Compute, wanted: hardware.Wanted, *, last: bool) -> bool:
    """Make a VM; False when its folder is there already, and there is another one to try."""
    board = hardware.Board()
    for number, disk in enumerate(wanted.replica.disks):
        backing = hardware.new_backing(host.base_file(wanted.directory, disk), thick=disk.provisioning == "thick")
        board.attach(disk.bus, backing, size_bytes=disk.size_bytes, key=-1000 - number)
    spec = wanted.spec()
    spec.deviceChange = [*board.changes, *wanted.cards()]
    try:
        host.client.run(lambda: running.folder.CreateVM_Task(config=spec, pool=running.pool, host=running.host))
    except BootpointError as exc:
        if last or not is_there(exc):
            raise
        return False
    return True


def _folders(store: Datastore, replica: Replica) -> list[str]:
    """Return folders for a new VM, the best first; another VM may have one, such as one in the trash.

    The host makes the VM's folder itself, and refuses one that is there.
    """
    above = join(f"[{store.name}] ", *(part for part in replica.folder.split("/") if part))
    if split(above)[1]:
        store.make_directory(above)
    return [join(above, name) for name in (replica.vm_name, f"{replica.vm_name}-{replica.replica_id.hex[-12:]}")]
