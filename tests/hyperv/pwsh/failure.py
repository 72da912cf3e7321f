"""Exceptions of .NET and PowerShell's error records; and how either leaves what runs.

Which exception wraps which, and how ``catch`` looks through it, is told in about_Try_Catch_Finally; what ends a
statement and what ends a script in "Everything you wanted to know about exceptions" (learn.microsoft.com).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_AUTOMATION = "System.Management.Automation"

#: What an exception's type is derived from; a name that isn't here is derived from System.Exception.
_BASES = {
    "System.SystemException": "System.Exception",
    "System.ArgumentException": "System.SystemException",
    "System.ArgumentNullException": "System.ArgumentException",
    "System.ArgumentOutOfRangeException": "System.ArgumentException",
    "System.ArithmeticException": "System.SystemException",
    "System.DivideByZeroException": "System.ArithmeticException",
    "System.OverflowException": "System.ArithmeticException",
    "System.FormatException": "System.SystemException",
    "System.IndexOutOfRangeException": "System.SystemException",
    "System.InvalidCastException": "System.SystemException",
    "System.InvalidOperationException": "System.SystemException",
    "System.NotSupportedException": "System.SystemException",
    "System.UnauthorizedAccessException": "System.SystemException",
    "System.IO.IOException": "System.SystemException",
    "System.IO.FileNotFoundException": "System.IO.IOException",
    "System.IO.DirectoryNotFoundException": "System.IO.IOException",
    f"{_AUTOMATION}.RuntimeException": "System.SystemException",
    f"{_AUTOMATION}.ActionPreferenceStopException": f"{_AUTOMATION}.RuntimeException",
    f"{_AUTOMATION}.CommandNotFoundException": f"{_AUTOMATION}.RuntimeException",
    f"{_AUTOMATION}.ParameterBindingException": f"{_AUTOMATION}.RuntimeException",
    f"{_AUTOMATION}.SessionStateException": f"{_AUTOMATION}.RuntimeException",
    f"{_AUTOMATION}.ItemNotFoundException": f"{_AUTOMATION}.SessionStateException",
    f"{_AUTOMATION}.DriveNotFoundException": f"{_AUTOMATION}.SessionStateException",
    f"{_AUTOMATION}.ExtendedTypeSystemException": f"{_AUTOMATION}.RuntimeException",
    f"{_AUTOMATION}.MethodException": f"{_AUTOMATION}.ExtendedTypeSystemException",
    f"{_AUTOMATION}.MethodInvocationException": f"{_AUTOMATION}.MethodException",
    f"{_AUTOMATION}.PropertyNotFoundException": f"{_AUTOMATION}.ExtendedTypeSystemException",
    f"{_AUTOMATION}.PSInvalidCastException": "System.InvalidCastException",
}


@dataclass(slots=True, eq=False)
class NetException:
    """An exception of .NET, as scripts see it.

    Attributes:
        type_name: With its namespace: ``System.IO.IOException``.
        message: For people.
        inner_exception: What it wraps.
        hresult: Its number, signed.
        base: What its type is derived from, where that isn't told by the table of this module.
    """

    type_name: str
    message: str
    inner_exception: NetException | None = None
    hresult: int = -2146233088  # COR_E_EXCEPTION
    base: str = ""

    def lineage(self) -> Iterator[str]:
        """Yield its type and what that is derived from, in small letters and without ``System.``."""
        name = self.type_name
        base = self.base
        while name:
            yield name.lower().removeprefix("system.")
            name = base or (_BASES.get(name, "System.Exception") if name != "System.Exception" else "")
            base = ""


@dataclass(frozen=True, slots=True)
class Category:
    """``CategoryInfo`` of an error record.

    Attributes:
        category: One of ErrorCategory: ``ObjectNotFound``.
        reason: The exception's type without its namespace.
        activity: The command that failed.
        target_name: What it was about.
    """

    category: str
    reason: str = ""
    activity: str = ""
    target_name: str = ""


@dataclass(frozen=True, slots=True)
class Invocation:
    """``InvocationInfo`` of an error record: where it came from."""

    script_line_number: int
    my_command: str = ""


@dataclass(slots=True, eq=False)
class ErrorRecord:
    """What ``$_`` is in a catch block.

    Attributes:
        exception: What went wrong.
        fully_qualified_error_id: For programs: ``InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM``.
        category_info: What kind of error it is.
        target_object: What it was about.
        invocation_info: Where it happened.
    """

    exception: NetException
    fully_qualified_error_id: str = ""
    category_info: Category = field(default_factory=lambda: Category("NotSpecified"))
    target_object: object = None
    invocation_info: Invocation = field(default_factory=lambda: Invocation(0))

    def __str__(self) -> str:
        """Return the exception's message, as ``"$_"`` gives it."""
        return self.exception.message


class Leaving(Exception):  # noqa: N818 - most of what leaves a block is no error
    """What leaves the blocks of a script on its way, whose ``finally`` blocks run."""


class Failure(Leaving):
    """A terminating error on its way to a ``catch``.

    Attributes:
        record: What the catch block sees.
        ends_script: Thrown by ``throw`` or by a preference of Stop: unless caught it ends the script, and not only the
            statement.
    """

    def __init__(self, record: ErrorRecord, *, ends_script: bool = False) -> None:
        super().__init__(record.exception.message)
        self.record = record
        self.ends_script = ends_script


def failure(
    type_name: str,
    message: str,
    identity: str = "",
    category: str = "NotSpecified",
    *,
    target: object = None,
) -> Failure:
    """Return a terminating error, to be raised.

    Args:
        type_name: Of the exception, with its namespace.
        message: For people.
        identity: The error's FullyQualifiedErrorId.
        category: One of ErrorCategory.
        target: What it is about.
    """
    kind = Category(category, type_name.rpartition(".")[2])
    return Failure(ErrorRecord(NetException(type_name, message), identity or type_name, kind, target))


def runtime(message: str, identity: str, category: str = "InvalidOperation") -> Failure:
    """Return an error of the language itself, a RuntimeException."""
    return failure(f"{_AUTOMATION}.RuntimeException", message, identity, category)


def missing_property(name: str) -> Failure:
    """Return the error of strict mode for a property that isn't there."""
    return failure(
        f"{_AUTOMATION}.PropertyNotFoundException",
        f"The property '{name}' cannot be found on this object. Verify that the property exists.",
        "PropertyNotFoundStrict",
    )


class OutsideSubset(Exception):  # noqa: N818 - named after what it says
    """The script does what this interpreter doesn't know; no ``catch`` of the script sees it.

    Attributes:
        what: The construct, or the value.
        line: Where, from 1; 0 until it is known.
    """

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {what}" if line else what)
        self.what = what
        self.line = line


class LoopLeft(Leaving):
    """``break`` or ``continue`` on its way to its loop.

    Attributes:
        again: It was ``continue``.
    """

    def __init__(self, *, again: bool) -> None:
        super().__init__("continue" if again else "break")
        self.again = again


class Returned(Leaving):
    """``return``; what it returns has been written."""


class Exited(Leaving):
    """``exit`` with its code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Enough(Leaving):
    """A stage of a pipeline wants no more objects (``Select-Object -First``).

    Attributes:
        stage: Which one.
    """

    def __init__(self, stage: object) -> None:
        super().__init__()
        self.stage = stage
