"""Paths as the API writes them, and where they lead."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from pyVmomi import vim

from tests.esxi import chain
from tests.esxi.datastore import PATH, Datastore


class Places:
    """The datastores of a host.

    Attributes:
        datastores: All of them.
    """

    datastores: list[Datastore]

    def datastore_of(self, path: str) -> Datastore:
        """Return the datastore of a path as the API writes it.

        Raises:
            vim.fault.InvalidDatastorePath: It is no such path.
            vim.fault.InvalidDatastore: There is no such datastore.
        """
        parts = PATH.match(path)
        if parts is None:
            raise vim.fault.InvalidDatastorePath(datastorePath=path, msg=f"Invalid datastore path '{path}'.")
        for datastore in self.datastores:
            if datastore.name == parts[1]:
                return datastore
        raise vim.fault.InvalidDatastore(name=parts[1], msg=f"Invalid datastore '{parts[1]}'.")

    def locate(self, path: str) -> Path:
        """Return where a file is, and never one outside its datastore."""
        directory = self.datastore_of(path).directory
        parts = PATH.match(path)
        assert parts is not None
        found = Path(directory, parts[2].strip("/"))
        if ".." in found.parts:
            raise vim.fault.InvalidDatastorePath(datastorePath=path, msg=f"Invalid datastore path '{path}'.")
        return found

    def name_of(self, path: Path) -> str:
        """Return a file's path as the API writes it."""
        for datastore in self.datastores:
            if path.is_relative_to(datastore.directory):
                return datastore.path_of(path)
        raise ValueError(f"{path} is on no datastore")

    def disk_uuid(self, path: Path) -> str:
        """Return a disk's id, which all links of its chain have."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, chain.links(path)[0].content_id))

    def file_not_found(self, name: str) -> Any:
        """Return the fault."""
        return vim.fault.FileNotFound(file=name, msg=f"File {name} was not found")

    def file_exists(self, name: str) -> Any:
        """Return the fault."""
        return vim.fault.FileAlreadyExists(
            file=name, msg=f"Cannot complete the operation because the file {name} already exists"
        )

    def file_locked(self, name: str) -> Any:
        """Return the fault, with the message that hosts send (apache/cloudstack issue 12035)."""
        return vim.fault.FileLocked(file=name, msg=f"Unable to access file {name} since it is locked")
