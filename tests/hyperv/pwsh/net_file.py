"""System.IO.File and System.IO.Directory, on the machine's drives; System.Text.Encoding, by which texts are written.

What they do is told in .NET Framework 4's reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hyperv.pwsh.context import Context
from tests.hyperv.pwsh.conversion import cast, to_text
from tests.hyperv.pwsh.failure import Failure, OutsideSubset, failure
from tests.hyperv.pwsh.files import Access
from tests.hyperv.pwsh.node import TypeName
from tests.hyperv.pwsh.value import NOTHING, PSObject, is_null


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text encoding.

    Attributes:
        codec: Python's name.
        mark: Bytes before a file's text.
    """

    codec: str
    mark: bytes = b""


#: Encodings by their property of System.Text.Encoding; that of ``UTF8`` puts a mark before a file's text.
ENCODINGS = {
    "utf8": Encoding("utf-8", b"\xef\xbb\xbf"),
    "ascii": Encoding("ascii"),
    "unicode": Encoding("utf-16-le", b"\xff\xfe"),
}
#: What File.WriteAllText uses where it isn't told: UTF-8 without a mark.
PLAIN = Encoding("utf-8")


def decoded(raw: bytes, encoding: Encoding) -> str:
    """Return a file's text: a mark at its start says which encoding it is, whatever was asked for."""
    for each in (ENCODINGS["utf8"], ENCODINGS["unicode"]):
        if raw.startswith(each.mark):
            return raw[len(each.mark) :].decode(each.codec, "replace")
    return raw.decode(encoding.codec, "replace")


def opened(context: Context, name: object, access: Access) -> Path:
    """Return a file's path here.

    Raises:
        Failure: It isn't there to be read, or has no directory to be written in.
    """
    path = context.files.resolve(to_text(name), access)
    if access is Access.READ and not path.is_file():
        kind = "FileNotFound" if path.parent.is_dir() else "DirectoryNotFound"
        message = f"Could not find {'file' if kind.startswith('File') else 'a part of the path'} '{to_text(name)}'."
        raise failure(f"System.IO.{kind}Exception", message)
    if access is Access.WRITE and not path.parent.is_dir():
        raise failure("System.IO.DirectoryNotFoundException", f"Could not find a part of the path '{to_text(name)}'.")
    return path


def _encoding(value: object) -> Encoding:
    if not isinstance(value, Encoding):
        raise OutsideSubset("an encoding that isn't one of System.Text.Encoding's")
    return value


def _write_text(context: Context, name: object, text: object, encoding: object = PLAIN) -> object:
    found = _encoding(encoding)
    opened(context, name, Access.WRITE).write_bytes(found.mark + to_text(text).encode(found.codec))
    return NOTHING


def _read_text(context: Context, name: object, encoding: object = PLAIN) -> object:
    return decoded(opened(context, name, Access.READ).read_bytes(), _encoding(encoding))


def _write_bytes(context: Context, name: object, data: object) -> object:
    raw = cast(TypeName("byte", 1, (), 0), data)
    assert isinstance(raw, bytes)
    opened(context, name, Access.WRITE).write_bytes(raw)
    return NOTHING


def _delete(context: Context, name: object) -> object:
    # A file that isn't there is no error to File.Delete.
    opened(context, name, Access.DELETE).unlink(missing_ok=True)
    return NOTHING


def _move(context: Context, name: object, new: object) -> object:
    source = opened(context, name, Access.READ)
    target = opened(context, new, Access.WRITE)
    if target.exists():
        raise failure("System.IO.IOException", "Cannot create a file when that file already exists.")
    source.rename(target)
    return NOTHING


def _replace(context: Context, name: object, new: object, backup: object) -> object:
    if not is_null(backup):
        raise OutsideSubset("File.Replace with a backup")
    opened(context, name, Access.READ).replace(opened(context, new, Access.READ))
    return NOTHING


def _make_directory(context: Context, name: object) -> object:
    context.files.resolve(to_text(name), Access.WRITE).mkdir(parents=True, exist_ok=True)
    return PSObject.of(FullName=to_text(name), Exists=True)


FILES: dict[str, dict[str, Callable[..., object]]] = {
    "io.file": {
        "exists": lambda context, name: context.files.resolve(to_text(name), Access.LOOK).is_file(),
        "writealltext": _write_text,
        "readalltext": _read_text,
        "writeallbytes": _write_bytes,
        "readallbytes": lambda context, name: opened(context, name, Access.READ).read_bytes(),
        "delete": _delete,
        "move": _move,
        "replace": _replace,
    },
    "io.directory": {
        "exists": lambda context, name: context.files.resolve(to_text(name), Access.LOOK).is_dir(),
        "createdirectory": _make_directory,
    },
}


def system_failure(wrong: OSError) -> Failure:
    """Return what .NET makes of an error of the file system."""
    if isinstance(wrong, PermissionError | IsADirectoryError):
        message = "Access to the path is denied."
        return failure("System.UnauthorizedAccessException", message, category="PermissionDenied")
    return failure("System.IO.IOException", wrong.strerror or str(wrong), category="WriteError")
