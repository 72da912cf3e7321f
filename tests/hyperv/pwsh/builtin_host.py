"""The language's own commands that speak to the host, and those that look at or change the session.

Each does what Microsoft's reference of Microsoft.PowerShell.Core and .Utility says of the parameters listed with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from tests.hyperv.pwsh.binding import Bound
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.comparison import listed
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.failure import Category, ErrorRecord, NetException, OutsideSubset, failure
from tests.hyperv.pwsh.node import Parameter, TypeName
from tests.hyperv.pwsh.pattern import has_wildcard, like
from tests.hyperv.pwsh.stage import FUNCTIONS, STAGES, function, stage
from tests.hyperv.pwsh.static import made
from tests.hyperv.pwsh.value import Hashtable, PSObject, written


@stage("Write-Output", "InputObject object 0 pipeline")
class _WriteOutput:
    def __init__(self, bound: Bound, _: Context, out: Out, piped: bool) -> None:
        self._bound, self._out, self._piped = bound, out, piped

    def process(self, item: object) -> None:
        self._out(item)

    def finish(self) -> None:
        if self._piped or "InputObject" not in self._bound.arguments:
            return
        for item in written(self._bound.arguments["InputObject"]):
            self._out(item)


@function("Write-Verbose", "Message string 0 mandatory pipeline")
@function("Write-Debug", "Message string 0 mandatory pipeline")
@function("Write-Warning", "Message string 0 mandatory pipeline")
@function("Write-Host", "Object object 0 pipeline", "NoNewline switch")
@function("Write-Progress", "Activity string 0 mandatory", "Status string 1", "PercentComplete int", "Completed switch")
def _shown(_: Call, __: Context) -> None:
    """Show something to somebody who isn't there."""


@function(
    "Write-Error",
    "Message string 0 pipeline",
    "Exception object",
    "ErrorId string",
    "Category string",
    "TargetObject object",
    "ErrorRecord object",
)
def _write_error(call: Call, _: Context) -> None:
    record = call.get("ErrorRecord", None)
    if not isinstance(record, ErrorRecord):
        exception = call.get("Exception", None)
        message = to_text(call.get("Message", ""))
        if not isinstance(exception, NetException):
            exception = NetException("Microsoft.PowerShell.Commands.WriteErrorException", message)
        identity = to_text(call.get("ErrorId", exception.type_name))
        category = Category(to_text(call.get("Category", "NotSpecified")), exception.type_name.rpartition(".")[2])
        record = ErrorRecord(exception, identity, category, call.get("TargetObject", None))
    call.report(record)


#: What Set-StrictMode takes for a version.
_STRICT = {"1": 1, "1.0": 1, "2": 2, "2.0": 2, "3": 3, "3.0": 3, "latest": 3}


@function("Set-StrictMode", "Version string", "Off switch")
def _set_strict_mode(call: Call, context: Context) -> None:
    version = to_text(call.get("Version", "0")).lower()
    if version not in ("0", *_STRICT):
        raise OutsideSubset(f"Set-StrictMode -Version {version}")
    context.strict = 0 if call.switched("Off") else _STRICT.get(version, 0)


@function("New-Object", "TypeName string 0 mandatory", "ArgumentList object[] 1", "Property hashtable")
def _new_object(call: Call, _: Context) -> object:
    name = to_text(call["TypeName"]).lower().removeprefix("system.")
    generic = name.partition("[")
    kind = TypeName(generic[0].removesuffix("`1"), 0, (), 0)
    value = made(kind, listed(call["ArgumentList"]) if "ArgumentList" in call else [])
    properties = call.get("Property", None)
    if isinstance(properties, Hashtable):
        if not isinstance(value, PSObject):
            raise OutsideSubset("New-Object -Property of anything but a PSObject")
        for key, each in properties.pairs():
            value[key] = each
    # A new list is the command's one object, and not its members, of which it has none.
    return [value]


@function("Get-Date", "Date datetime 0", "Format string", "UFormat string")
def _get_date(call: Call, _: Context) -> object:
    if "UFormat" in call or "Format" in call:
        raise OutsideSubset("Get-Date with a format: [DateTime]::UtcNow.ToString('o') needs no culture")
    return call.get("Date", datetime.now(UTC).astimezone())


@function("Get-Command", "Name string[] 0 pipeline", "Module string[]", "CommandType string[]")
def _get_command(call: Call, context: Context) -> object:
    if "Module" in call or "CommandType" in call or "Name" not in call:
        raise OutsideSubset("Get-Command without a name, or with more than a name")
    return list(_commands(call, context))


def _commands(call: Call, context: Context) -> Iterator[object]:
    known = _known(context)
    for name in (to_text(each) for each in listed(call["Name"])):
        matches = [each for each in known if like(each, name)]
        yield from (_described(each, known[each]) for each in matches)
        if not matches and not has_wildcard(name):
            message = f"The term '{name}' is not recognized as the name of a cmdlet, function, script file, or program."
            kind = "System.Management.Automation.CommandNotFoundException"
            call.error(failure(kind, message, "CommandNotFoundException", "ObjectNotFound", target=name))


def _known(context: Context) -> dict[str, tuple[Parameter, ...]]:
    own = {name: takes for name, (takes, _) in {**STAGES, **FUNCTIONS}.items()}
    return own | {name: cmdlet.parameters for name, cmdlet in context.commands.items()}


def _described(name: str, takes: tuple[Parameter, ...]) -> object:
    parameters = Hashtable([(each.name, PSObject.of(Name=each.name)) for each in takes])
    return PSObject.of(Name=name, CommandType="Cmdlet", Parameters=parameters)


@function("Get-Variable", "Name string 0 mandatory", "ValueOnly switch")
def _get_variable(call: Call, context: Context) -> object:
    found = context.known(to_text(call["Name"]))
    if found is None:
        message = f"Cannot find a variable with the name '{to_text(call['Name'])}'."
        kind = "System.Management.Automation.ItemNotFoundException"
        call.error(failure(kind, message, "VariableNotFound", "ObjectNotFound"))
        return None
    return [found.value] if call.switched("ValueOnly") else PSObject.of(Name=call["Name"], Value=found.value)
