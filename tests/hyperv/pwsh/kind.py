"""Which type a value is of: ``-is``, ``GetType()`` and the names that go with them (about_Type_Operators)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from tests.hyperv.pwsh.conversion import INTEGERS
from tests.hyperv.pwsh.failure import ErrorRecord, NetException, OutsideSubset
from tests.hyperv.pwsh.node import TypeName
from tests.hyperv.pwsh.value import ArrayList, Entry, Hashtable, PSObject, ScriptBlock, Version

#: Names without ``System.``, by Python's types; the first that fits.
_NAMES: tuple[tuple[type, str], ...] = (
    (str, "String"),
    (bool, "Boolean"),
    (float, "Double"),
    (bytes, "Byte[]"),
    (UUID, "Guid"),
    (datetime, "DateTime"),
    (timedelta, "TimeSpan"),
    (Version, "Version"),
    (PSObject, "Management.Automation.PSCustomObject"),
    (ScriptBlock, "Management.Automation.ScriptBlock"),
    (ErrorRecord, "Management.Automation.ErrorRecord"),
    (Entry, "Collections.DictionaryEntry"),
)

#: Shorter names of PowerShell's (about_Type_Accelerators).
_SHORT = {
    "int": "int32",
    "long": "int64",
    "bool": "boolean",
    "hashtable": "collections.hashtable",
    "pscustomobject": "management.automation.pscustomobject",
    "psobject": "management.automation.pscustomobject",
    "scriptblock": "management.automation.scriptblock",
    "switch": "boolean",
}


def type_name(value: object) -> str:
    """Return the full name of a value's type.

    Raises:
        OutsideSubset: It isn't known.
    """
    if isinstance(value, NetException):
        return value.type_name
    if isinstance(value, int) and not isinstance(value, bool):
        return "System." + _whole(value)
    if isinstance(value, ArrayList):
        return "System.Collections." + ("ArrayList" if value.tells else "Generic.List`1[System.Object]")
    if isinstance(value, list):
        return "System.Object[]"
    if isinstance(value, Hashtable):
        return "System.Collections." + ("Specialized.OrderedDictionary" if value.ordered else "Hashtable")
    for kind, name in _NAMES:
        if isinstance(value, kind):
            return f"System.{name}"
    raise OutsideSubset(f"the type of a {type(value).__name__}")


def _whole(value: int) -> str:
    for name in ("int32", "int64", "uint64"):
        if INTEGERS[name][0] <= value <= INTEGERS[name][1]:
            return {"int32": "Int32", "int64": "Int64", "uint64": "UInt64"}[name]
    raise OutsideSubset(f"the type of {value}")


def is_of(value: object, kind: TypeName) -> bool:
    """Tell whether a value is of a type.

    Raises:
        OutsideSubset: The type isn't known here.
    """
    wanted = _SHORT.get(kind.name, kind.name)
    if kind.rank == 1 or wanted == "array":
        if kind.name not in ("array", "object", "byte"):
            raise OutsideSubset(f"-is [{kind.name}[]]: arrays know no type of their members here", kind.line)
        return isinstance(value, bytes) if kind.name == "byte" else _is_array(value)
    if isinstance(value, NetException):
        return wanted in value.lineage()
    if wanted in ("valuetype", "object") or kind.arguments:
        raise OutsideSubset(f"-is [{kind.name}]", kind.line)
    if wanted == "collections.idictionary":
        return isinstance(value, Hashtable)
    if wanted in ("collections.ienumerable", "collections.ilist"):
        return isinstance(value, list | bytes) or (wanted.endswith("enumerable") and isinstance(value, str | Hashtable))
    if value is None:
        return False
    return type_name(value).lower().removeprefix("system.") == wanted


def _is_array(value: object) -> bool:
    return isinstance(value, list | bytes) and not isinstance(value, ArrayList)
