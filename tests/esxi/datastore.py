"""Datastores: directories of this machine, with a capacity."""

from __future__ import annotations

import fnmatch
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from bootpoint_common.units import GiB, TiB
from tests.esxi import chain
from tests.esxi.inventory import Entity
from tests.esxi.managed import Managed, task

if TYPE_CHECKING:
    from tests.esxi.world import World

#: A path as the API writes it: ``[datastore1] folder/file``.
PATH = re.compile(r"^\[([^\]]+)\] ?(.*)$")

#: Largest file on VMFS 5 and 6 (VMware Configuration Maximums).
MAX_FILE_BYTES = 62 * TiB

#: Allocation unit, in which VMFS 6 counts what a folder's files take.
BLOCK = 512


class Datastore(Entity):
    """A datastore.

    Attributes:
        directory: Where its files are.
        capacity_bytes: What it can hold; may be set at any time.
    """

    kind = vim.Datastore

    def __init__(self, world: World, name: str, directory: Path, capacity_bytes: int) -> None:
        super().__init__(world, world.names.datastore(name), name, world.datastore_folder)
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        directory.mkdir(parents=True, exist_ok=True)
        self._browser = DatastoreBrowser(world, f"datastoreBrowser-{self.moid}", self)

    @property
    def free_bytes(self) -> int:
        """What is left of the capacity."""
        used = 0
        for path in self.directory.rglob("*"):
            try:
                used += path.stat().st_blocks * BLOCK
            except FileNotFoundError:  # gone since it was listed
                continue
        return max(0, self.capacity_bytes - used)

    def demand(self, size_bytes: int) -> None:
        """Check that there is room.

        Raises:
            vim.fault.InsufficientDisksSpace: There is less; the wire calls it ``NoDiskSpace``.
        """
        if size_bytes > self.free_bytes:
            raise vim.fault.NoDiskSpace(
                datastore=self.name, file=f"[{self.name}]", msg=f"Insufficient disk space on datastore '{self.name}'."
            )

    def path_of(self, path: Path) -> str:
        """Return a file's path as the API writes it."""
        return f"[{self.name}] {path.relative_to(self.directory)}"

    @property
    def browser(self) -> Any:
        """What lists its files."""
        return self._browser.reference

    @property
    def summary(self) -> Any:
        """Its size and what is free."""
        return vim.Datastore.Summary(
            datastore=self.reference, name=self.name, url=self.info.url, capacity=self.capacity_bytes,
            freeSpace=self.free_bytes, accessible=True, type="VMFS", multipleHostAccess=False, maintenanceMode="normal",
        )  # fmt: skip

    @property
    def info(self) -> Any:
        """Limits of its files."""
        return vim.host.VmfsDatastoreInfo(
            name=self.name, url=f"ds:///vmfs/volumes/{self.moid}/", freeSpace=self.free_bytes,
            maxFileSize=MAX_FILE_BYTES, maxVirtualDiskCapacity=MAX_FILE_BYTES, maxMemoryFileSize=64 * GiB,
            timestamp=datetime.now(UTC), maxPhysicalRDMFileSize=MAX_FILE_BYTES, maxVirtualRDMFileSize=MAX_FILE_BYTES,
        )  # fmt: skip

    @property
    def capability(self) -> Any:
        """What it can do."""
        return vim.Datastore.Capability(
            directoryHierarchySupported=True, rawDiskMappingsSupported=True, perFileThinProvisioningSupported=True,
            storageIORMSupported=False, nativeSnapshotSupported=False, seSparseSupported=True,
        )  # fmt: skip

    @property
    def host(self) -> list[Any]:
        """The hosts that mount it."""
        mounted = vim.host.MountInfo(
            accessMode="readWrite", accessible=True, mounted=True, path=f"/vmfs/volumes/{self.moid}"
        )
        return [vim.Datastore.HostMount(key=self.world.system.reference, mountInfo=mounted)]

    @property
    def vm(self) -> list[Any]:
        """Machines with files on it."""
        below = self.world.children(self.world.machines)
        return [each.reference for each in below if each.directory.is_relative_to(self.directory)]


class DatastoreBrowser(Managed):
    """Lists the files of a datastore."""

    kind = vim.host.DatastoreBrowser

    def __init__(self, world: World, moid: str, datastore: Datastore) -> None:
        super().__init__(world, moid)
        self._datastore = datastore

    @task
    def search_datastore(self, datastore_path: str, search_spec: Any = None) -> Any:
        """List a folder."""
        return self._list(self.world.locate(datastore_path), search_spec)

    @task
    def search_datastore_sub_folders(self, datastore_path: str, search_spec: Any = None) -> Any:
        """List a folder and all below it."""
        start = self.world.locate(datastore_path)
        if not start.is_dir():
            raise self.world.file_not_found(datastore_path)
        folders = [start, *sorted(path for path in start.rglob("*") if path.is_dir())]
        kind = vim.host.DatastoreBrowser.SearchResults.Array
        return kind([self._list(folder, search_spec) for folder in folders])

    def _list(self, folder: Path, spec: Any) -> Any:
        if not folder.is_dir():
            raise self.world.file_not_found(self._datastore.path_of(folder))
        patterns = spec.matchPattern if spec and spec.matchPattern else ["*"]
        shown = [
            path for path in sorted(folder.iterdir())
            if not _extent(path) and any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
        ]  # fmt: skip
        path = self._datastore.path_of(folder)
        name = f"[{self._datastore.name}]" if path.endswith("] .") else f"{path}/"
        return vim.host.DatastoreBrowser.SearchResults(
            datastore=self._datastore.reference, folderPath=name, file=[_described(each) for each in shown]
        )


def _extent(path: Path) -> bool:
    """Tell whether a file is a disk's extent: a browser shows a disk as one file."""
    return path.name.endswith(("-flat.vmdk", "-sesparse.vmdk"))


def _described(path: Path) -> Any:
    kind = vim.host.DatastoreBrowser.FolderInfo if path.is_dir() else vim.host.DatastoreBrowser.FileInfo
    size = path.stat().st_size
    if path.suffix == ".vmdk":
        kind = vim.host.DatastoreBrowser.VmDiskInfo
        size = chain.read_link(path).stored_bytes
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return kind(path=path.name, fileSize=size, modification=changed, owner="root")
