"""Files of datastores: small ones by HTTP, the rest by the host's own file manager.

Sources: vSphere Web Services SDK Programming Guide, "Datastore Access over HTTP" (``/folder/…?dcPath=…&dsName=…``), and
the API reference on `FileManager` and `HostDatastoreBrowser`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.esxi.entity import among, moref

if TYPE_CHECKING:
    from pyVmomi import vim

    from bootpoint_worker.targets.esxi.client import Client

#: A datastore path: ``[datastore] folder/file``.
_PATH = re.compile(r"\[(?P<store>[^\]]+)\] ?(?P<file>.*)")


def join(directory: str, *parts: str) -> str:
    """Join a datastore path and names below it."""
    store, path = split(directory)
    return f"[{store}] {posixpath.join(path, *parts)}".rstrip()


def split(path: str) -> tuple[str, str]:
    """Split a datastore path into the datastore's name and the path within it.

    Raises:
        ValueError: It is none.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{path!r} is no datastore path")
    return match["store"], match["file"]


def parent(path: str) -> str:
    """Return the datastore path of the directory that a file lies in."""
    store, file = split(path)
    return f"[{store}] {posixpath.dirname(file)}"


def name_of(path: str) -> str:
    """Return the last part of a datastore path."""
    return posixpath.basename(split(path)[1])


def is_there(problem: BootpointError) -> bool:
    """Tell whether an error says that a file is there already."""
    return type(problem.__cause__).__name__.rpartition(".")[2] in ("FileAlreadyExists", "AlreadyExists")


@dataclass(frozen=True, slots=True)
class Datastore:
    """A datastore, with the datacenter that it belongs to.

    Attributes:
        client: The session.
        name: The datastore's name.
        entity: The managed object.
        browser: What lists its files.
        datacenter: The datacenter's managed object.
        datacenter_path: Its inventory path, ``ha-datacenter`` on a host.
    """

    client: Client
    name: str
    entity: Any
    browser: Any
    datacenter: Any
    datacenter_path: str

    def get(self, path: str) -> bytes | None:
        """Read a file; None when there is none.

        Raises:
            RetryableError: ``target_write_error``: the host doesn't give it.
        """
        status, body = self.client.http("GET", self._target(path))
        if status == 404:
            return None
        self._expect(status, path, "read", 200)
        return body

    def put(self, path: str, data: bytes) -> None:
        """Write a file as a whole, in place of one that is there; a crash may leave a part of it."""
        status, _ = self.client.http("PUT", self._target(path), data)
        self._expect(status, path, "write", 200, 201, 204)

    def make_directory(self, path: str) -> bool:
        """Make a directory and those above it; False when it was there already."""
        manager = self.client.content.fileManager

        def make() -> None:
            manager.MakeDirectory(name=path, datacenter=self.datacenter, createParentDirectories=True)

        return self._unless_there(lambda: self.client.call(make))

    def move_new(self, source: str, destination: str) -> bool:
        """Give a file another name, which mustn't be taken: then it stays, and False is returned."""
        manager = self.client.content.fileManager

        def begin() -> vim.Task:
            return manager.MoveDatastoreFile_Task(
                sourceName=source,
                sourceDatacenter=self.datacenter,
                destinationName=destination,
                destinationDatacenter=self.datacenter,
                force=False,
            )

        return self._unless_there(lambda: self.client.run(begin))

    def delete(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it; nothing when there is none."""
        manager = self.client.content.fileManager
        try:
            self.client.run(lambda: manager.DeleteDatastoreFile_Task(name=path, datacenter=self.datacenter))
        except BootpointError as exc:
            if exc.code is not Code.LAYER_LOST:
                raise

    def list(self, directory: str, pattern: str = "*") -> list[str]:
        """Return the names in a directory that match a pattern of the host's (``*``, ``?``), sorted."""
        from pyVmomi import vim

        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=[pattern])
        try:
            found = self.client.run(lambda: self.browser.SearchDatastore_Task(datastorePath=directory, searchSpec=spec))
        except BootpointError as exc:
            if exc.code is not Code.LAYER_LOST:
                raise
            return []
        return sorted(posixpath.basename(file.path) for file in found.file or ())

    def has(self, path: str) -> bool:
        """Tell whether a file is there."""
        return name_of(path) in self.list(parent(path), name_of(path))

    def free_bytes(self) -> int:
        """Return how many bytes are free."""
        return int(self.client.read(self.entity, "summary.freeSpace")["summary.freeSpace"])

    def _unless_there(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except BootpointError as exc:
            if not is_there(exc):
                raise
            return False
        return True

    def _target(self, path: str) -> str:
        store, file = split(path)
        return f"/folder/{quote(file)}?{urlencode({'dcPath': self.datacenter_path, 'dsName': store})}"

    def _expect(self, status: int, path: str, what: str, *good: int) -> None:
        if status in good:
            return
        code = Code.HOST_FULL if status == 507 else Code.HOST_PERMISSION if status == 403 else Code.TARGET_WRITE_ERROR
        host = self.client.host
        raise error(code, f"host {host} answered with status {status} to the wish to {what} {path}", host=host)


def find_datastore(client: Client, name: str) -> Datastore:
    """Return a datastore by its name.

    Raises:
        FatalError: ``storage_unknown``.
    """
    stores = client.read_all("Datastore", "name")
    entity = next((each for each, found in stores if found["name"] == name), None)
    if entity is None:
        known = ", ".join(sorted(found["name"] for _, found in stores)) or "none"
        raise error(
            Code.STORAGE_UNKNOWN,
            f"host {client.host} has no datastore {name!r}; there are: {known}",
            key="storage.name",
            value=name,
            host=client.host,
        )
    centers = client.read_all("Datacenter", "name", "datastore", "parent")
    for center, found in centers:
        if among(entity, found.get("datastore", ())):
            browser = client.read(entity, "browser")["browser"]
            return Datastore(client, name, entity, browser, center, _path(client, found))
    raise error(
        Code.STORAGE_UNKNOWN, f"datastore {name!r} of host {client.host} is in no datacenter",
        key="storage.name", value=name, host=client.host,
    )  # fmt: skip


def _path(client: Client, datacenter: dict[str, Any]) -> str:
    """Return a datacenter's inventory path: its name after those of the folders that it lies in."""
    names = [datacenter["name"]]
    root, above = client.content.rootFolder, datacenter.get("parent")
    while above is not None and moref(above) != moref(root):
        found = client.read(above, "name", "parent")
        names.insert(0, found["name"])
        above = found.get("parent")
    return "/".join(names)
