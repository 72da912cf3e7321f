"""How a machine is shown: its state, the short of it, and its files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from tests.esxi import chain, hardware

if TYPE_CHECKING:
    from tests.esxi.machine import Machine


def runtime(machine: Machine) -> Any:
    """Return its state."""
    there = machine.world.locate(machine.config.files.vmPathName).exists()
    return vim.vm.RuntimeInfo(
        host=machine.world.system.reference, connectionState="connected" if there else "inaccessible",
        powerState="poweredOn" if machine.guest.on else "poweredOff", faultToleranceState="notConfigured",
        recordReplayState="inactive", consolidationNeeded=machine.snapshots.needs_consolidation,
        question=machine.guest.question, bootTime=machine.guest.started,
    )  # fmt: skip


def summary(machine: Machine) -> Any:
    """Return the short of it."""
    config, devices = machine.config, machine.config.hardware.device
    cards = [each for each in devices if isinstance(each, vim.vm.device.VirtualEthernetCard)]
    disks = hardware.disks(devices)
    stored = sum(link.stored_bytes for path in all_files(machine) for link in [chain.read_link(path)])
    return vim.vm.Summary(
        vm=machine.reference, runtime=runtime(machine), overallStatus="green",
        quickStats=vim.vm.Summary.QuickStats(guestHeartbeatStatus="gray"),
        config=vim.vm.Summary.ConfigSummary(
            name=machine.name, template=False, vmPathName=config.files.vmPathName, numCpu=config.hardware.numCPU,
            memorySizeMB=config.hardware.memoryMB, numVirtualDisks=len(disks), numEthernetCards=len(cards),
            uuid=config.uuid,
            instanceUuid=config.instanceUuid, guestId=config.guestId, guestFullName=config.guestFullName,
            annotation=config.annotation,
        ),
        storage=vim.vm.Summary.StorageSummary(
            committed=stored, uncommitted=0, unshared=stored, timestamp=datetime.now(UTC)
        ),
    )  # fmt: skip


def all_files(machine: Machine) -> list[Path]:
    """Return the descriptors of all links of all its disks, and of its snapshots'; each once."""
    configs = [machine.config, *(each.config for each in machine.snapshots.oldest_first())]
    disks = [disk for config in configs for disk in hardware.disks(config.hardware.device)]
    found: dict[Path, None] = {}
    for disk in disks:
        found |= dict.fromkeys(link.path for link in chain.links(machine.world.locate(disk.backing.fileName)))
    return list(found)


class _Files:
    """Files with the keys that a layout refers to them by."""

    def __init__(self, machine: Machine) -> None:
        self._world = machine.world
        self._keys: dict[Path, int] = {}
        self._numbers = itertools.count()
        self.listed: list[Any] = []

    def key(self, path: Path, kind: str) -> int:
        """Return a file's key; it is listed when it is asked for the first time."""
        if path not in self._keys:
            self._keys[path] = next(self._numbers)
            stat = path.stat()
            size = stat.st_blocks * chain.SECTOR if kind == "diskExtent" else stat.st_size
            self.listed.append(
                vim.vm.FileLayoutEx.FileInfo(
                    key=self._keys[path], name=self._world.name_of(path), type=kind, size=size, uniqueSize=size
                )
            )
        return self._keys[path]

    def units(self, name: str) -> Iterator[Any]:
        """Yield the links of a disk, the base first: each a descriptor and an extent."""
        for link in chain.links(self._world.locate(name)):
            keys = [self.key(link.path, "diskDescriptor"), self.key(link.extent, "diskExtent")]
            yield vim.vm.FileLayoutEx.DiskUnit(fileKey=keys)


def layout(machine: Machine) -> Any:
    """Return its files, and which belong to which disk and snapshot."""
    files = _Files(machine)
    vmx = machine.world.locate(machine.config.files.vmPathName)
    for path, kind in ((vmx, "config"), (vmx.with_suffix(".vmsd"), "snapshotList")):
        if path.exists():
            files.key(path, kind)
    disks = _disks(files, machine.config)
    snapshots = [
        vim.vm.FileLayoutEx.SnapshotLayout(
            key=each.reference, dataKey=-1, memoryKey=-1, disk=_disks(files, each.config)
        )
        for each in machine.snapshots.oldest_first()
    ]
    return vim.vm.FileLayoutEx(file=files.listed, disk=disks, snapshot=snapshots, timestamp=datetime.now(UTC))


def _disks(files: _Files, config: Any) -> list[Any]:
    return [
        vim.vm.FileLayoutEx.DiskLayout(key=disk.key, chain=list(files.units(disk.backing.fileName)))
        for disk in hardware.disks(config.hardware.device)
    ]


def delete_files(machine: Machine) -> None:
    """Remove what is the machine's: its disks, its .vmx, .vmsd and logs; its folder only when nothing else is in it."""
    for path in reversed(all_files(machine)):
        # A linked copy's lower links are another machine's.
        if path.is_relative_to(machine.directory):
            chain.delete(path)
    vmx = machine.world.locate(machine.config.files.vmPathName)
    for path in (vmx, vmx.with_suffix(".vmsd"), machine.directory / "vmware.log"):
        path.unlink(missing_ok=True)
    if machine.directory.is_dir() and not any(machine.directory.iterdir()):
        machine.directory.rmdir()
