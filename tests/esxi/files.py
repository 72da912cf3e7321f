"""Files and disks that belong to no machine: made, moved, copied and deleted by their paths."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pyVmomi import vim

from tests.esxi import chain
from tests.esxi.managed import Managed, operation, task, writing


class FileManager(Managed):
    """Moves files and folders about."""

    kind = vim.FileManager

    @writing
    def make_directory(self, name: str, datacenter: Any = None, create_parent_directories: bool | None = None) -> None:
        """Make a folder; one that is there already is refused, as real hosts do."""
        path = self.world.locate(name)
        if path.exists():
            raise self.world.file_exists(name)
        if not path.parent.is_dir() and not create_parent_directories:
            raise self.world.file_not_found(name)
        path.mkdir(parents=True)

    @task
    def delete_datastore_file(self, name: str, datacenter: Any = None) -> None:
        """Delete a file, or a folder with all that is in it; a disk goes with its extent."""
        path = self._existing(name)
        self._free(path, name)
        _delete(path)

    @task
    def move_datastore_file(
        self, source_name: str, destination_name: str, source_datacenter: Any = None,
        destination_datacenter: Any = None, force: bool | None = None,
    ) -> None:  # fmt: skip
        """Rename a file or a folder."""
        source, destination = self._existing(source_name), self._vacant(destination_name, force=force)
        self._free(source, source_name)
        if source.suffix == ".vmdk":
            chain.copy(source, destination)
            chain.delete(source)
        else:
            shutil.move(source, destination)

    @task
    def copy_datastore_file(
        self, source_name: str, destination_name: str, source_datacenter: Any = None,
        destination_datacenter: Any = None, force: bool | None = None,
    ) -> None:  # fmt: skip
        """Copy a file or a folder."""
        source, destination = self._existing(source_name), self._vacant(destination_name, force=force)
        self._free(source, source_name)
        if source.is_dir():
            shutil.copytree(source, destination)
        elif source.suffix == ".vmdk":
            chain.copy(source, destination)
        else:
            shutil.copy2(source, destination)

    def _existing(self, name: str) -> Path:
        path: Path = self.world.locate(name)
        if not path.exists():
            raise self.world.file_not_found(name)
        return path

    def _vacant(self, name: str, *, force: bool | None) -> Path:
        path: Path = self.world.locate(name)
        if path.exists():
            if not force:
                raise self.world.file_exists(name)
            _delete(path)
        if not path.parent.is_dir():
            raise self.world.file_not_found(name)
        return path

    def _free(self, path: Path, name: str) -> None:
        if self.world.leases.below(path) or self.world.running_below(path):
            raise self.world.file_locked(name)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.suffix == ".vmdk":
        chain.delete(path)
    else:
        path.unlink()


class VirtualDiskManager(Managed):
    """Makes, copies and deletes disks that belong to no machine."""

    kind = vim.VirtualDiskManager

    @task
    def create_virtual_disk(self, name: str, spec: Any, datacenter: Any = None) -> str:
        """Make a disk."""
        path = self.world.locate(name)
        if path.exists():
            raise self.world.file_exists(name)
        if not path.parent.is_dir():
            raise self.world.file_not_found(name)
        size_bytes = spec.capacityKb * 1024
        thick = spec.diskType != "thin"
        if thick:
            self.world.datastore_of(name).demand(size_bytes)
        chain.create(path, size_bytes, thick=thick)
        return name

    @task
    def delete_virtual_disk(self, name: str, datacenter: Any = None) -> None:
        """Delete a disk."""
        path = self._disk(name)
        chain.delete(path)

    @task
    def copy_virtual_disk(
        self, source_name: str, dest_name: str, *, source_datacenter: Any = None, dest_datacenter: Any = None,
        dest_spec: Any = None, force: bool | None = None,
    ) -> str:  # fmt: skip
        """Copy what a disk shows, all links of its chain together, into a new one."""
        source, destination = self._disk(source_name), self.world.locate(dest_name)
        if destination.exists():
            if not force:
                raise self.world.file_exists(dest_name)
            chain.delete(destination)
        chain.copy(source, destination)
        return dest_name

    @task
    def extend_virtual_disk(
        self, name: str, new_capacity_kb: int, datacenter: Any = None, eager_zero: bool | None = None
    ) -> None:
        """Make a disk longer that has no parent (ExtendVirtualDisk_Task, vSphere API)."""
        path = self._disk(name)
        if chain.read_link(path).parent is not None:
            raise vim.fault.InvalidDiskFormat(msg="The disk is a delta of another one.")
        chain.grow(path, new_capacity_kb * 1024)

    @operation
    def query_virtual_disk_uuid(self, name: str, datacenter: Any = None) -> str:
        """Return a disk's id: of its base, as all links have the same."""
        return self.world.disk_uuid(self._disk(name))

    def _disk(self, name: str) -> Path:
        path: Path = self.world.locate(name)
        try:
            chain.read_link(path)
        except FileNotFoundError:
            raise self.world.file_not_found(name) from None
        if self.world.leases.below(path) or self.world.running_below(path):
            raise self.world.file_locked(name)
        return path
