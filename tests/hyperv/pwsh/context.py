"""Where a script stands while it runs: variables by their scopes, commands, files, errors so far.

A scope sees the variables of those that called it, and assigns its own (about_Scopes). ``powershell.exe -File`` runs a
script in the global scope (about_PowerShell_exe, "-File"), so that ``$script:`` and ``$global:`` are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.hyperv.pwsh.cmdlet import Cmdlet
from tests.hyperv.pwsh.conversion import cast, to_text
from tests.hyperv.pwsh.failure import ErrorRecord, Failure, Invocation, OutsideSubset, runtime
from tests.hyperv.pwsh.files import Files
from tests.hyperv.pwsh.node import Function, TypeName, Variable
from tests.hyperv.pwsh.value import NOTHING, Hashtable, Version

#: Where what is written goes: to the next stage of a pipeline, or to who collects it.
Out = Callable[[object], None]

#: Variables that nobody may assign (about_Automatic_Variables).
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None}

#: Automatic variables that aren't kept here.
_UNKNOWN = frozenset(
    ("?", "$", "^", "input", "foreach", "switch", "host", "pid", "pwd", "home", "profile", "executioncontext"),
)

#: What preferences are in the beginning (about_Preference_Variables).
_PREFERENCES = {
    "erroractionpreference": "Continue",
    "verbosepreference": "SilentlyContinue",
    "warningpreference": "Continue",
    "progresspreference": "Continue",
    "confirmpreference": "High",
}


@dataclass(slots=True)
class Box:
    """A variable's value, with the type that it was declared with."""

    value: object
    type: TypeName | None = None


@dataclass(slots=True)
class Scope:
    """The variables and functions of one call."""

    variables: dict[str, Box] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


class Context:
    """A script that runs.

    Attributes:
        commands: What it can call besides its own functions, by names in small letters.
        files: The machine's drives.
        environment: The machine's environment variables, by names in capitals.
        errors: What ``$Error`` holds, the newest last.
        reported: Errors that were shown, and didn't end the script.
        strict: Set-StrictMode's version, 0 while it is off.
        guarded: How many ``try`` blocks are open around what runs.
        line: Of what runs.
    """

    def __init__(
        self,
        *,
        commands: Mapping[str, Cmdlet],
        files: Files,
        environment: Mapping[str, str],
        version: Version,
        variables: Mapping[str, object],
    ) -> None:
        self.commands = dict(commands)
        self.files = files
        self.environment = {name.upper(): value for name, value in environment.items()}
        self.errors: list[ErrorRecord] = []
        self.reported: list[ErrorRecord] = []
        self.strict = 0
        self.guarded = 0
        self.line = 0
        first = Scope({name: Box(value) for name, value in (_PREFERENCES | dict(variables)).items()})
        first.variables["psversiontable"] = Box(Hashtable([("PSVersion", version), ("PSEdition", "Desktop")]))
        self._scopes = [first]

    @property
    def scopes(self) -> list[Scope]:
        """The scopes that are seen now, the innermost last."""
        return self._scopes

    @contextmanager
    def within(self, scopes: list[Scope]) -> Iterator[None]:
        """Have other scopes for the time of a block: those of a stage to which an object is handed."""
        before, self._scopes = self._scopes, scopes
        try:
            yield
        finally:
            self._scopes = before

    # --- variables ---------------------------------------------------------------------------------------------------

    def value(self, variable: Variable) -> object:
        """Return a variable's value; null where it was never set, which strict mode takes for an error.

        Raises:
            Failure: It was never set, in strict mode.
        """
        name = variable.name.lower()
        if variable.scope == "env":
            return self.environment.get(name.upper())
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name == "error":
            return list(reversed(self.errors))
        box = self._box("_" if name == "psitem" else name, variable.scope)
        if box is not None:
            return box.value
        if name in _UNKNOWN:
            raise OutsideSubset(f"the variable ${name}", variable.line)
        if self.strict:
            message = f"The variable '${variable.name}' cannot be retrieved because it has not been set."
            raise runtime(message, "VariableIsUndefined")
        return None

    def _box(self, name: str, scope: str) -> Box | None:
        if scope in ("script", "global"):
            return self._scopes[0].variables.get(name)
        if scope == "local":
            return self._scopes[-1].variables.get(name)
        return next((each.variables[name] for each in reversed(self._scopes) if name in each.variables), None)

    def assign(self, variable: Variable, value: object, kind: TypeName | None = None) -> None:
        """Set a variable in its scope, the current one where it names none; a type stays with it.

        Raises:
            Failure: It is a constant, or the value isn't one of its type.
        """
        name = variable.name.lower()
        if name == "null":
            return
        if (name in _UNKNOWN and name != "switch") or name == "ofs":
            raise OutsideSubset(f"an assignment to ${variable.name}", variable.line)
        if name in _CONSTANTS:
            message = f"Cannot overwrite variable {name} because it is read-only or constant."
            raise runtime(message, "VariableNotWritable")
        if variable.scope == "env":
            self.environment[name.upper()] = to_text(value)
            return
        scope = self._scopes[0 if variable.scope in ("script", "global") else -1]
        known = scope.variables.get(name)
        kind = kind or (known.type if known else None)
        scope.variables[name] = Box(cast(kind, value) if kind else value, kind)

    def set(self, name: str, value: object) -> None:
        """Set a variable of the current scope."""
        self._scopes[-1].variables[name.lower()] = Box(value)

    def known(self, name: str) -> Box | None:
        """Return what a name without a scope stands for, or None where no variable has it."""
        return self._box(name.lower(), "")

    def declare(self, name: str, value: object, kind: TypeName | None) -> None:
        """Set a parameter's variable; what is assigned to it later is converted, too."""
        self._scopes[-1].variables[name.lower()] = Box(value, kind)

    @contextmanager
    def scoped(self, name: str, value: object) -> Iterator[None]:
        """Have a variable for the time of a block, and what it was before afterwards."""
        variables = self._scopes[-1].variables
        before = variables.get(name)
        variables[name] = Box(value)
        try:
            yield
        finally:
            if before is None:
                del variables[name]
            else:
                variables[name] = before

    def current_error(self) -> ErrorRecord | None:
        """Return what the catch block that runs has caught."""
        box = self._box("_", "")
        return box.value if box and isinstance(box.value, ErrorRecord) else None

    def text(self, name: str) -> str:
        """Return a preference's value in small letters."""
        box = self._box(name.lower(), "")
        return to_text(box.value if box else NOTHING).lower()

    # --- functions ---------------------------------------------------------------------------------------------------

    def define(self, function: Function) -> None:
        """Make a function known, in the current scope or in that of its prefix."""
        scope, colon, name = function.name.rpartition(":")
        if colon and scope.lower() not in ("script", "global"):
            raise OutsideSubset(f"the scope of function {function.name}", function.line)
        self._scopes[0 if colon else -1].functions[name.lower()] = function

    def function(self, name: str) -> Function | None:
        """Return the function that a name means here."""
        found = (each.functions.get(name.lower()) for each in reversed(self._scopes))
        return next((each for each in found if each), None)

    # --- errors ------------------------------------------------------------------------------------------------------

    def noted(self, record: ErrorRecord) -> ErrorRecord:
        """Put a record into ``$Error``, with the line if it has none."""
        if not record.invocation_info.script_line_number:
            record.invocation_info = Invocation(self.line, record.category_info.activity)
        if record not in self.errors:
            self.errors.append(record)
        return record

    def report(self, record: ErrorRecord, action: str = "") -> None:
        """Deal with an error that doesn't end its command, as ``-ErrorAction`` or the preference says.

        Args:
            record: The error.
            action: What ``-ErrorAction`` said, in small letters; empty for the preference.

        Raises:
            Failure: The script is to stop.
        """
        action = action or self.text("ErrorActionPreference")
        if action == "ignore":
            return
        self.noted(record)
        if action == "stop":
            raise Failure(record, ends_script=True)
        if action == "continue":
            self.reported.append(record)
        elif action != "silentlycontinue":
            raise OutsideSubset(f"ErrorAction {action}")
