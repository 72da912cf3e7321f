"""Functions and script blocks at work (about_Functions, about_Script_Blocks, about_Functions_Advanced_Methods)."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hyperv.pwsh.binding import Given, bind, check_mandatory, from_pipeline
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import INTEGERS, cast
from tests.hyperv.pwsh.evaluation import evaluate, run_block
from tests.hyperv.pwsh.failure import OutsideSubset, Returned
from tests.hyperv.pwsh.node import Body, Statement, TypeName
from tests.hyperv.pwsh.value import NOTHING, Hashtable, ScriptBlock, Table


class BlockStage:
    """A function or a script block in a pipeline, in a scope of its own."""

    def __init__(
        self, name: str, body: Body, given: Sequence[Given], context: Context, out: Out, *, piped: bool
    ) -> None:  # fmt: skip
        self._name, self._body, self._context, self._out = name, body, context, out
        self._piped, self._begun = piped, False
        self._bound = bind(name, body.parameters, given, common=body.advanced, rest=not body.advanced)
        self._by_pipeline = any(each.from_pipeline or each.from_property for each in body.parameters)
        if piped and not body.has_process:
            raise OutsideSubset(f"objects from the pipeline for {name}, which has no process block")

    def process(self, item: object) -> None:
        """Run the process block with an object as ``$_``."""
        self._begin()
        if self._by_pipeline:
            arguments = from_pipeline(self._name, self._body.parameters, self._bound, item)
            check_mandatory(self._name, self._body.parameters, arguments)
            self._set(arguments)
        self._process(item)

    def finish(self) -> None:
        """Run the end block; before it the others, where no object came."""
        self._begin()
        if not self._piped and self._body.has_process:
            self._process(None)
        run_body(self._body.end, self._context, self._out)

    def _process(self, item: object) -> None:
        with self._context.scoped("_", item):
            run_body(self._body.process, self._context, self._out)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if not self._piped:
            check_mandatory(self._name, self._body.parameters, self._bound.arguments)
        self._context.set("args", self._bound.rest)
        self._context.set("PSBoundParameters", Hashtable(self._bound.arguments.pairs()))
        if self._bound.error_action:
            # -ErrorAction of a function is its preference as long as it runs (about_CommonParameters).
            self._context.set("ErrorActionPreference", self._bound.error_action)
        self._set(self._bound.arguments)
        run_body(self._body.begin, self._context, self._out)

    def _set(self, arguments: Table) -> None:
        for each in self._body.parameters:
            if each.name in arguments:
                value = arguments[each.name]
            elif each.default is not None:
                value = evaluate(each.default, self._context)
            else:
                value = _unset(each.type)
            self._context.declare(each.name, None if value is NOTHING else value, each.type)


def _unset(kind: TypeName | None) -> object:
    """Return what a parameter is that has neither argument nor default: null as a text, a number or a truth value."""
    plain = kind is not None and not kind.rank and kind.name in ("string", "switch", "bool", "double", *INTEGERS)
    return cast(kind, None) if kind is not None and plain else None


def run_body(statements: Sequence[Statement], context: Context, out: Out) -> None:
    """Run one of a block's parts; ``return`` ends it."""
    try:
        run_block(statements, context, out)
    except Returned:
        return


def run_script_block(block: ScriptBlock, item: object, context: Context, out: Out) -> None:
    """Run a block with an object as ``$_``, as Where-Object and ForEach-Object do: in the scope of their caller.

    Raises:
        OutsideSubset: The block has parameters or named parts.
    """
    if block.body.parameters or block.body.begin or block.body.has_process:
        raise OutsideSubset("parameters or named parts in a block for the pipeline's objects", block.body.line)
    with context.scoped("_", item):
        run_body(block.body.end, context, out)
