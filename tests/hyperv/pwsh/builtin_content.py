"""Get-Content, Set-Content, Add-Content (Microsoft's reference of Microsoft.PowerShell.Management).

Encodings are those of Windows PowerShell 5.1 (about_Character_Encoding): without ``-Encoding`` the machine's code page,
and ``UTF8`` is written with a mark.
"""

from __future__ import annotations

from tests.hyperv.pwsh.binding import Bound
from tests.hyperv.pwsh.builtin_item import PATHS, found
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.comparison import listed
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.pwsh.files import Access
from tests.hyperv.pwsh.net_file import ENCODINGS, Encoding, decoded
from tests.hyperv.pwsh.stage import Stage, function, stage
from tests.hyperv.pwsh.value import FileText

#: Encodings by the words of ``-Encoding``; ``Default`` is the machine's code page, here Western European.
_WORDS = {**ENCODINGS, "default": Encoding("cp1252")}

_ENCODING = "Encoding UTF8|ASCII|Unicode|Default"


@function("Get-Content", *PATHS, "Raw switch", _ENCODING)
def _get_content(call: Call, context: Context) -> object:
    encoding = _WORDS[to_text(call.get("Encoding", "Default")).lower()]
    for name, path in found(call, context, Access.READ):
        if path.is_dir():
            message = f"Access to the path '{name}' is denied."
            call.error(failure("System.UnauthorizedAccessException", message, category="PermissionDenied", target=name))
            continue
        text = decoded(path.read_bytes(), encoding)
        if call.switched("Raw"):
            yield FileText(text)
        else:
            yield from (FileText(line) for line in text.splitlines())


class _Writing:
    """Set-Content and Add-Content: what comes through the pipeline, a line for each object."""

    def __init__(self, bound: Bound, context: Context, piped: bool, *, adds: bool) -> None:
        self._bound, self._context, self._adds = bound, context, adds
        self._values = [] if piped else listed(bound.arguments.get("Value"))

    def process(self, item: object) -> None:
        self._values.append(item)

    def finish(self) -> None:
        arguments = self._bound.arguments
        name = to_text(arguments.get("LiteralPath", arguments.get("Path")))
        encoding = _WORDS[to_text(arguments.get("Encoding", "default")).lower()]
        raw = "".join(to_text(value) + "\r\n" for value in self._values).encode(encoding.codec, "replace")
        path = self._context.files.resolve(name, Access.WRITE)
        if not path.parent.is_dir():
            message = f"Could not find a part of the path '{name}'."
            identity = "GetContentWriterDirectoryNotFoundError"
            wrong = failure("System.IO.DirectoryNotFoundException", message, identity, "ObjectNotFound", target=name)
            self._context.report(wrong.record, self._bound.error_action)
            return
        mark = b"" if self._adds and path.exists() else encoding.mark
        with path.open("ab" if self._adds else "wb") as file:
            file.write(mark + raw)


_WRITING = ("Path string 0 filled", "LiteralPath string filled", "Value object 1", _ENCODING, "Force switch")


@stage("Set-Content", *_WRITING)
def _set_content(bound: Bound, context: Context, _: Out, piped: bool) -> Stage:
    return _Writing(bound, context, piped, adds=False)


@stage("Add-Content", *_WRITING)
def _add_content(bound: Bound, context: Context, _: Out, piped: bool) -> Stage:
    return _Writing(bound, context, piped, adds=True)
