"""The language's own commands on files and folders, as Microsoft's reference of Microsoft.PowerShell.Management has
them.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.comparison import listed
from tests.hyperv.pwsh.context import Context
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.failure import Failure, OutsideSubset, failure
from tests.hyperv.pwsh.files import Access
from tests.hyperv.pwsh.net_file import system_failure
from tests.hyperv.pwsh.net_path import combined, directory_name, file_name
from tests.hyperv.pwsh.pattern import has_wildcard, like
from tests.hyperv.pwsh.stage import function

#: The parameters by which the commands of this module are told what they are about.
PATHS = ("Path string[] 0 filled pipeline", "LiteralPath string[] filled property alias=PSPath")


@dataclass(frozen=True, slots=True)
class Item:
    """A file or a folder, as Get-Item and Get-ChildItem return it.

    Attributes:
        full_name: Its path on the machine.
        length: Of a file, in bytes.
        ps_is_container: It is a folder.
        last_write_time_utc: When it was changed.
    """

    full_name: str
    length: int
    ps_is_container: bool
    last_write_time_utc: datetime

    @property
    def name(self) -> str:
        """What stands after the last separator."""
        return file_name(self.full_name)

    @property
    def extension(self) -> str:
        """From the last dot on."""
        return "." + self.name.rpartition(".")[2] if "." in self.name else ""

    @property
    def directory_name(self) -> str | None:
        """The path of the folder that it is in."""
        return directory_name(self.full_name)

    def __str__(self) -> str:
        return self.full_name


def _item(name: str, path: Path) -> Item:
    state = path.stat()
    return Item(name, state.st_size, path.is_dir(), datetime.fromtimestamp(state.st_mtime, UTC))


def _named(call: Call) -> list[str]:
    """Return the paths of a call.

    Raises:
        OutsideSubset: One of ``-Path`` has wildcards, which nothing of ours wants.
    """
    if "LiteralPath" in call:
        return [to_text(name) for name in listed(call["LiteralPath"])]
    names = [to_text(name) for name in listed(call.get("Path", None))]
    for name in names:
        if has_wildcard(name):
            raise OutsideSubset(f"-Path with wildcards ({name}): say -LiteralPath")
    return names


def _missing(command: str, name: str) -> Failure:
    return failure(
        "System.Management.Automation.ItemNotFoundException",
        f"Cannot find path '{name}' because it does not exist.",
        f"PathNotFound,Microsoft.PowerShell.Commands.{command}Command",
        "ObjectNotFound",
        target=name,
    )


def found(call: Call, context: Context, access: Access) -> Iterator[tuple[str, Path]]:
    """Yield the paths of a call that are there; of the others it writes an error and goes on."""
    for name in _named(call):
        try:
            path = context.files.resolve(name, access)
        except Failure as wrong:
            call.error(wrong)
            continue
        if path.exists():
            yield name, path
        else:
            call.error(_missing(call.command.replace("-", ""), name))


def _attempt(call: Call, action: Callable[[], object]) -> None:
    """Do what the file system may refuse; a refusal doesn't end the command."""
    try:
        action()
    except OSError as wrong:
        call.error(system_failure(wrong))
    except Failure as wrong:
        call.error(wrong)


@function("Test-Path", *PATHS, "PathType Any|Container|Leaf")
def _test_path(call: Call, context: Context) -> object:
    kind = to_text(call.get("PathType", "Any")).lower()
    answers = []
    for name in _named(call):
        try:
            path = context.files.resolve(name, Access.LOOK)
        except Failure:
            # A drive that isn't there is no error to Test-Path.
            answers.append(False)
            continue
        answers.append(path.is_dir() if kind == "container" else path.is_file() if kind == "leaf" else path.exists())
    return answers


@function("Get-Item", *PATHS, "Force switch")
def _get_item(call: Call, context: Context) -> object:
    return [_item(name, path) for name, path in found(call, context, Access.LOOK)]


@function(
    "Get-ChildItem",
    *PATHS,
    "Filter string 1",
    "File switch",
    "Directory switch",
    "Recurse switch",
    "Force switch",
)
def _children(call: Call, context: Context) -> object:
    if "Path" not in call and "LiteralPath" not in call:
        raise OutsideSubset("Get-ChildItem of the current folder")
    for name, path in found(call, context, Access.LOOK):
        yield from _below(call, name, path)


def _below(call: Call, name: str, path: Path) -> Iterator[Item]:
    if path.is_file():
        yield _item(name, path)
        return
    children = sorted(path.iterdir(), key=lambda each: each.name.lower())
    items = [_item(combined(name, child.name), child) for child in children]
    for item in sorted(items, key=lambda each: not each.ps_is_container):
        kept = not (call.switched("File") and item.ps_is_container) and not (
            call.switched("Directory") and not item.ps_is_container
        )
        if kept and like(item.name, to_text(call.get("Filter", "*"))):
            yield item
    if call.switched("Recurse"):
        for item in items:
            if item.ps_is_container:
                yield from _below(call, item.full_name, path / item.name)


@function(
    "New-Item",
    "Path string[] 0 mandatory",
    "ItemType Directory|File alias=Type",
    "Value string",
    "Force switch",
)
def _new_item(call: Call, context: Context) -> object:
    for name in (to_text(each) for each in listed(call["Path"])):
        path = context.files.resolve(name, Access.WRITE)
        folder = to_text(call.get("ItemType", "File")).lower() == "directory"
        if path.exists() and not (call.switched("Force") and path.is_dir() == folder):
            message = f"An item with the specified name {name} already exists."
            call.error(failure("System.IO.IOException", message, "DirectoryExist", "ResourceExists", target=name))
            continue
        if folder:
            path.mkdir(parents=True, exist_ok=True)
        else:
            if call.switched("Force"):
                path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.is_dir():
                message = f"Could not find a part of the path '{name}'."
                call.error(failure("System.IO.DirectoryNotFoundException", message, "NewItemIOError", "WriteError"))
                continue
            path.write_text(to_text(call.get("Value", "")), encoding="utf-8")
        yield _item(name, path)


@function("Remove-Item", *PATHS, "Recurse switch", "Force switch", "Confirm switch")
def _remove_item(call: Call, context: Context) -> None:
    for name, path in found(call, context, Access.DELETE):
        if path.is_dir() and any(path.iterdir()) and not call.switched("Recurse"):
            message = "Windows PowerShell is in NonInteractive mode. Read and Prompt functionality is not available."
            raise failure("System.Management.Automation.PSInvalidOperationException", message, "InvalidOperation")
        if path.is_dir():
            _attempt(call, functools.partial(_remove_folder, context, name, path))
        else:
            _attempt(call, path.unlink)


def _remove_folder(context: Context, name: str, path: Path) -> None:
    """Remove a folder, unless a file in it is held open."""
    for child in path.rglob("*"):
        inner = "\\".join(child.relative_to(path).parts)
        context.files.resolve(combined(name, inner), Access.DELETE)
    shutil.rmtree(path)


@function("Rename-Item", *PATHS, "NewName string 1 mandatory", "Force switch")
def _rename_item(call: Call, context: Context) -> None:
    for _, path in found(call, context, Access.DELETE):
        _attempt(call, functools.partial(_moved, path, path.parent / to_text(call["NewName"])))


@function("Move-Item", *PATHS, "Destination string 1 mandatory", "Force switch")
def _move_item(call: Call, context: Context) -> None:
    for name, path in found(call, context, Access.DELETE):
        target = context.files.resolve(to_text(call["Destination"]), Access.WRITE)
        into = target / file_name(name) if target.is_dir() else target
        _attempt(call, functools.partial(_moved, path, into, force=call.switched("Force")))


def _moved(path: Path, target: Path, *, force: bool = False) -> None:
    if target.exists() and not (force and target.is_file()):
        message = "Cannot create a file when that file already exists."
        raise failure("System.IO.IOException", message, category="WriteError")
    path.rename(target)


@function("Copy-Item", *PATHS, "Destination string 1 mandatory", "Force switch")
def _copy_item(call: Call, context: Context) -> None:
    for name, path in found(call, context, Access.READ):
        if path.is_dir():
            raise OutsideSubset("Copy-Item of a folder")
        target = context.files.resolve(to_text(call["Destination"]), Access.WRITE)
        into = target / file_name(name) if target.is_dir() else target
        _attempt(call, functools.partial(shutil.copyfile, path, into))
