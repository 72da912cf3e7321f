"""The language's own commands on objects: Where-Object, ForEach-Object, Select-Object, Sort-Object, Measure-Object and
the like.

Each does what Microsoft's reference of Microsoft.PowerShell.Core and .Utility says of the parameters listed with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from tests.hyperv.pwsh.binding import Bound
from tests.hyperv.pwsh.block import run_script_block
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.comparison import equal, listed, order
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_bool, to_number, to_text
from tests.hyperv.pwsh.evaluation import write
from tests.hyperv.pwsh.failure import Enough, OutsideSubset, failure
from tests.hyperv.pwsh.member import get, property_of
from tests.hyperv.pwsh.stage import function, stage
from tests.hyperv.pwsh.value import NOTHING, Hashtable, PSObject, ScriptBlock, is_null


class _Each:
    """A stage that makes something of each object."""

    def __init__(self, bound: Bound, context: Context, out: Out, piped: bool) -> None:
        self.bound, self.context, self.out = bound, context, out
        if not piped:
            raise OutsideSubset("a command on the pipeline's objects that has no pipeline before it")

    def argument(self, name: str) -> object:
        """Return an argument, or null."""
        return self.bound.arguments.get(name)

    def process(self, item: object) -> None:
        """Take an object."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take notice that there is no more."""


class _All(_Each):
    """A stage that makes something of all objects together."""

    def __init__(self, bound: Bound, context: Context, out: Out, piped: bool) -> None:
        super().__init__(bound, context, out, piped)
        self.items: list[object] = []

    def process(self, item: object) -> None:
        """Keep an object."""
        self.items.append(item)


def _evaluated(how: object, item: object, context: Context) -> object:
    """Return an object's property, or what a script block makes of it."""
    if isinstance(how, ScriptBlock):
        found: list[object] = []
        run_script_block(how, item, context, found.append)
        return found[0] if len(found) == 1 else found or None
    return get(item, to_text(how), strict=0)


@stage("Where-Object", "FilterScript scriptblock 0 mandatory")
class _Where(_Each):
    def process(self, item: object) -> None:
        block = self.bound.arguments["FilterScript"]
        assert isinstance(block, ScriptBlock)
        found: list[object] = []
        run_script_block(block, item, self.context, found.append)
        if to_bool(found):
            self.out(item)


@stage("ForEach-Object", "Process object 0 mandatory")
class _ForEach(_Each):
    def process(self, item: object) -> None:
        how = self.bound.arguments["Process"]
        if isinstance(how, ScriptBlock):
            run_script_block(how, item, self.context, self.out)
        else:
            write(_evaluated(how, item, self.context), self.out)


@stage(
    "Select-Object",
    "Property object[] 0",
    "First int",
    "Last int",
    "Skip int",
    "ExpandProperty string",
    "Unique switch",
)
class _Select(_All):
    def process(self, item: object) -> None:
        super().process(item)
        first = self.argument("First")
        if first is None or self.argument("Last") is not None or self.argument("Unique"):
            return
        wanted = round(to_number(first))
        if len(self.items) >= wanted + round(to_number(self.argument("Skip"))):
            raise Enough(self)

    def finish(self) -> None:
        for item in self._chosen():
            self._write(item)

    def _chosen(self) -> list[object]:
        items = self.items[round(to_number(self.argument("Skip"))) :]
        if self.argument("Unique"):
            items = _unique(items)
        first, last = self.argument("First"), self.argument("Last")
        if first is not None:
            return items[: round(to_number(first))]
        return items[-round(to_number(last)) :] if to_number(last) else items

    def _write(self, item: object) -> None:
        name = self.argument("ExpandProperty")
        if name is not None:
            found = property_of(item, to_text(name))
            if found is NOTHING:
                message = f'Property "{to_text(name)}" cannot be found.'
                raise failure("System.Management.Automation.PSArgumentException", message, "ExpandPropertyNotFound")
            write(found, self.out)
        elif self.argument("Property") is not None:
            self.out(PSObject(self._properties(item)))
        else:
            self.out(item)

    def _properties(self, item: object) -> Iterator[tuple[object, object]]:
        for each in listed(self.argument("Property")):
            if isinstance(each, Hashtable):
                name = next((each[key] for key in ("Name", "N", "Label", "L") if key in each), None)
                how = next((each[key] for key in ("Expression", "E") if key in each), None)
                value = _evaluated(how, item, self.context)
                if isinstance(value, list):
                    # 5.1 wraps it, so that it comes out of ConvertTo-Json as an object (PowerShell's issue 3163).
                    raise OutsideSubset("a property that Select-Object calculates as an array: make a [pscustomobject]")
                yield to_text(name), value
            elif any(sign in to_text(each) for sign in "*?"):
                raise OutsideSubset("Select-Object with wildcards")
            else:
                yield to_text(each), _evaluated(each, item, self.context)


def _unique(items: list[object]) -> list[object]:
    """Return what hasn't been before; Select-Object tells capital letters from small ones."""
    found: list[object] = []
    for item in items:
        if not any(equal(item, each, cased=True) for each in found):
            found.append(item)
    return found


@stage("Sort-Object", "Property object[] 0", "Descending switch", "Unique switch")
class _Sort(_All):
    def finish(self) -> None:
        hows = listed(self.argument("Property"))
        compare = functools.cmp_to_key(lambda one, two: self._order(hows, one, two))
        found = sorted(self.items, key=compare, reverse=to_bool(self.argument("Descending")))
        for at, item in enumerate(found):
            if not (self.argument("Unique") and at and self._order(hows, found[at - 1], item) == 0):
                self.out(item)

    def _order(self, hows: list[object], one: object, two: object) -> int:
        for how in hows:
            values = [item if how is None else _evaluated(how, item, self.context) for item in (one, two)]
            found = order(values[0], values[1])
            if found:
                return found
        return 0


@stage("Measure-Object", "Property string 0", "Sum switch", "Maximum switch", "Minimum switch", "Average switch")
class _Measure(_All):
    def finish(self) -> None:
        name = self.argument("Property")
        values = [item if name is None else property_of(item, to_text(name)) for item in self.items]
        values = [value for value in values if not is_null(value)]
        found = PSObject.of(Count=len(values), Average=None, Sum=None, Maximum=None, Minimum=None, Property=name)
        for word, combine in _MEASURES.items():
            if self.argument(word) and values:
                found[word] = combine([to_number(value) for value in values])
        self.out(found)


#: Sums are doubles, as Measure-Object's are.
_MEASURES: dict[str, Callable[[list[float]], float]] = {
    "Sum": lambda numbers: float(sum(numbers)),
    "Average": lambda numbers: sum(numbers) / len(numbers),
    "Maximum": lambda numbers: float(max(numbers)),
    "Minimum": lambda numbers: float(min(numbers)),
}


@stage("Group-Object", "Property object 0 mandatory")
class _Group(_All):
    def finish(self) -> None:
        groups: list[PSObject] = []
        for item in self.items:
            value = _evaluated(self.argument("Property"), item, self.context)
            known = next((group for group in groups if equal(group["Value"], value)), None)
            if known is None:
                known = PSObject.of(Count=0, Name=to_text(value), Group=[], Value=value)
                groups.append(known)
            members = known["Group"]
            assert isinstance(members, list)
            members.append(item)
            known["Count"] = len(members)
        for group in groups:
            self.out(group)


@stage("Out-Null")
class _OutNull(_Each):
    def process(self, item: object) -> None:
        pass


@function(
    "Add-Member",
    "MemberType NoteProperty|ScriptProperty 0",
    "Name string 1",
    "Value object 2",
    "InputObject object mandatory pipeline",
    "NotePropertyName string",
    "NotePropertyValue object",
    "Force switch",
    "PassThru switch",
)
def _add_member(call: Call, _: Context) -> object:
    target = call["InputObject"]
    if not isinstance(target, PSObject) or to_text(call.get("MemberType", "NoteProperty")).lower() != "noteproperty":
        raise OutsideSubset("Add-Member of anything but a NoteProperty to a [pscustomobject]")
    short = "NotePropertyName" in call
    name = to_text(call["NotePropertyName" if short else "Name"])
    if name in target and not call.switched("Force"):
        message = f'Cannot add a member with the name "{name}" because a member with that name already exists.'
        raise failure("System.InvalidOperationException", message, "MemberAlreadyExists", "InvalidOperation")
    target[name] = call.get("NotePropertyValue" if short else "Value", None)
    return target if call.switched("PassThru") else None
