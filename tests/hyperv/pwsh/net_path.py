"""System.IO.Path: what can be told of a path without looking at a drive (.NET Framework 4's reference)."""

from __future__ import annotations

from collections.abc import Callable

from tests.hyperv.pwsh.conversion import to_text


def combined(*parts: object) -> str:
    """Return paths put together (``Path.Combine``): an absolute one starts anew."""
    found = ""
    for part in (to_text(each) for each in parts):
        if part[1:2] == ":" or part[:1] in ("\\", "/"):
            found = part
        elif part:
            found = f"{found}\\{part}" if found and found[-1] not in "\\/:" else found + part
    return found


def _cut(path: object) -> int:
    return max(to_text(path).rfind(sign) for sign in "\\/:") + 1


def file_name(path: object) -> str:
    """Return what stands after the last separator."""
    return to_text(path)[_cut(path) :]


def directory_name(path: object) -> str | None:
    """Return what stands before the last separator; None for a drive's root."""
    before = to_text(path)[: _cut(path)]
    if before == to_text(path) and len(before) <= 3:
        return None
    return before if before.endswith(":\\") and before.count("\\") == 1 else before.rstrip("\\/")


def _extension(path: object) -> str:
    name = file_name(path)
    return name[name.rindex(".") :] if "." in name else ""


def _without_extension(path: object) -> str:
    return file_name(path).removesuffix(_extension(path)) if _extension(path) else file_name(path)


def _changed_extension(path: object, new: object) -> str:
    plain = to_text(path)[: -len(_extension(path))] if _extension(path) else to_text(path)
    return plain + ("" if to_text(new).startswith(".") or not to_text(new) else ".") + to_text(new)


def _rooted(path: object) -> bool:
    return to_text(path)[1:2] == ":" or to_text(path)[:1] in ("\\", "/")


#: Path's methods, by their names in small letters.
METHODS: dict[str, Callable[..., object]] = {
    "combine": combined,
    "getfilename": file_name,
    "getdirectoryname": directory_name,
    "getextension": _extension,
    "getfilenamewithoutextension": _without_extension,
    "changeextension": _changed_extension,
    "ispathrooted": _rooted,
}
