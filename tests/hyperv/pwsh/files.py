"""The drives of the machine that a script believes to run on, as directories here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path, PureWindowsPath
from typing import Protocol

from tests.hyperv.pwsh.failure import failure


class Access(Enum):
    """What for a path is asked."""

    LOOK = "look"  #: whether it is there, and what it is like
    READ = "read"  #: its content
    WRITE = "write"  #: to change its content, or to make it
    DELETE = "delete"  #: to take it away


class Files(Protocol):
    """Where paths of the machine lie."""

    def resolve(self, path: str, access: Access) -> Path:
        r"""Return the path here of an absolute one there (``D:\folder\name``), whether it exists or not.

        Raises:
            Failure: There is no such drive, or the file can't be had in this way: another program has it open.
        """
        ...


class Drives:
    """Drives by their letters; names are found whatever their case, as Windows finds them.

    Args:
        roots: Directories by letters.
        check: Called with each path here before it is used, and raises where the access is refused.
    """

    def __init__(self, roots: Mapping[str, Path], check: Callable[[Path, Access], None] | None = None) -> None:
        self._roots = {letter.upper(): root for letter, root in roots.items()}
        self._check = check

    def resolve(self, path: str, access: Access) -> Path:
        """Return the path here of an absolute one there.

        Raises:
            Failure: There is no such drive, or `check` refuses.
        """
        there = PureWindowsPath(path.replace("/", "\\"))
        root = self._roots.get(there.drive.removesuffix(":").upper())
        if root is None or ".." in there.parts or not there.root:
            raise failure(
                "System.Management.Automation.DriveNotFoundException",
                f"Cannot find drive. A drive with the name '{there.drive.removesuffix(':') or path}' does not exist.",
                "DriveNotFound",
                "ObjectNotFound",
                target=path,
            )
        found = root
        for name in there.parts[1:]:
            found /= _spelt(found, name)
        if self._check is not None:
            self._check(found, access)
        return found


def _spelt(directory: Path, name: str) -> str:
    """Return a name as the directory spells it."""
    if (directory / name).exists() or not directory.is_dir():
        return name
    return next((each.name for each in directory.iterdir() if each.name.lower() == name.lower()), name)
