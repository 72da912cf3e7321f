"""The files below a machine's snapshots: which stand on which, and how they are merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.esxi import chain, hardware

if TYPE_CHECKING:
    from tests.esxi.machine import Machine


def files(world: Any, config: Any) -> list[Path]:
    """Return the topmost files of the disks that snapshots keep: not of independent ones (VirtualDiskMode)."""
    disks = hardware.disks(config.hardware.device)
    return [
        world.locate(disk.backing.fileName) for disk in disks if not disk.backing.diskMode.startswith("independent")
    ]


class Chains:
    """The files of one machine.

    Args:
        machine: Whose.
        configs: Gives its configuration, and those of its snapshots.
    """

    def __init__(self, machine: Machine, configs: Callable[[], list[Any]]) -> None:
        self._machine = machine
        self._configs = configs

    @property
    def redundant(self) -> list[Path]:
        """Files that no snapshot names any more, and that what stands on them could be merged into."""
        wanted = {path for config in self._configs() for path in files(self._machine.world, config)}
        return [path for path in self._used() if path not in wanted and len(self._standing_on(path)) == 1]

    def _used(self) -> list[Path]:
        """All files of all chains, the bases first; each once."""
        found: dict[Path, None] = {}
        for config in self._configs():
            for leaf in files(self._machine.world, config):
                found |= dict.fromkeys(link.path for link in chain.links(leaf))
        return list(found)

    def _standing_on(self, path: Path) -> list[Path]:
        return [each for each in self._used() if chain.read_link(each).parent == path]

    def settle(self, path: Path) -> None:
        """Merge what stands on a file that no snapshot names any more into it; delete it when nothing does.

        Raises:
            vim.fault.FileLocked: A file is open.
            vim.fault.NoDiskSpace: There is no room.
        """
        standing = self._standing_on(path)
        if not standing and path not in self._used():
            self.drop(path)
        if len(standing) != 1:
            return
        upper = standing[0]
        self._may_merge(upper, path)
        chain.merge(upper, self._standing_on(upper))
        for config in self._configs():
            self.point(config, upper, path)
            for disk in hardware.disks(config.hardware.device):
                hardware.backing_of(self._machine.world, disk)

    def _may_merge(self, upper: Path, path: Path) -> None:
        world, machine = self._machine.world, self._machine
        opened = any(world.leases.below(each) or world.running_below(each, but=machine) for each in (upper, path))
        if opened or machine.guest.holds_files or world.trouble.spend("merges_locked"):
            raise world.file_locked(world.name_of(path))
        datastore = world.datastore_of(world.name_of(path))
        if world.trouble.spend("merges_full"):
            datastore.demand(datastore.free_bytes + 1)
        datastore.demand(chain.read_link(upper).stored_bytes)

    def drop(self, path: Path) -> None:
        """Delete a file that nothing needs, and those below that only it needed."""
        used = self._used()
        for link in reversed(chain.links(path)):
            if link.path in used:
                return
            chain.delete(link.path)

    def point(self, config: Any, old: Path, new: Path) -> None:
        """Let a configuration's disk have another file."""
        world = self._machine.world
        for disk in hardware.disks(config.hardware.device):
            if world.locate(disk.backing.fileName) == old:
                disk.backing.fileName = world.name_of(new)
                hardware.backing_of(world, disk)
