"""Join-Path, Split-Path, Resolve-Path (Microsoft's reference of Microsoft.PowerShell.Management)."""

from __future__ import annotations

from tests.hyperv.pwsh.builtin_item import PATHS, found
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.comparison import listed
from tests.hyperv.pwsh.context import Context
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.files import Access
from tests.hyperv.pwsh.net_path import directory_name, file_name
from tests.hyperv.pwsh.stage import function
from tests.hyperv.pwsh.value import PSObject


@function("Join-Path", "Path string[] 0 mandatory pipeline", "ChildPath string 1 mandatory")
def _join_path(call: Call, context: Context) -> object:
    joined = []
    for name in (to_text(each) for each in listed(call["Path"])):
        # Join-Path fails for a drive that isn't there, which Path.Combine doesn't (its notes in Microsoft's reference).
        if name[1:2] == ":":
            context.files.resolve(name[:2] + "\\", Access.LOOK)
        joined.append(name.rstrip("\\") + "\\" + to_text(call["ChildPath"]).lstrip("\\"))
    return joined


@function("Split-Path", "Path string 0 mandatory pipeline", "Parent switch", "Leaf switch", "Qualifier switch")
def _split_path(call: Call, _: Context) -> object:
    name = to_text(call["Path"]).rstrip("\\") if len(to_text(call["Path"])) > 3 else to_text(call["Path"])
    if call.switched("Leaf"):
        return file_name(name)
    if call.switched("Qualifier"):
        return name[:2]
    return directory_name(name) or ""


@function("Resolve-Path", *PATHS)
def _resolve_path(call: Call, context: Context) -> object:
    return [PSObject.of(Path=name, ProviderPath=name) for name, _ in found(call, context, Access.LOOK)]
