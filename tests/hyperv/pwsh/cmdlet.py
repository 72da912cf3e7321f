"""Commands that Python carries out, and the parameters by which scripts call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.hyperv.pwsh.conversion import INTEGERS
from tests.hyperv.pwsh.failure import ErrorRecord, Failure
from tests.hyperv.pwsh.node import Parameter, TypeName
from tests.hyperv.pwsh.value import Table

#: Types that arguments are converted to; those of other types are passed on as they are.
_CONVERTED = (*INTEGERS, "string", "switch", "bool", "guid", "datetime", "hashtable", "scriptblock", "double", "char")


@dataclass(slots=True)
class Call:
    """One call of a command; of a command that takes objects from the pipeline, one for each.

    Attributes:
        command: Its name.
        arguments: By the parameters' names, converted to their types. A parameter that wasn't given isn't there.
        report: Takes an error that doesn't end the command.
    """

    command: str
    arguments: Table
    report: Callable[[ErrorRecord], None]

    def __contains__(self, name: str) -> bool:
        return name in self.arguments

    def __getitem__(self, name: str) -> object:
        return self.arguments[name]

    def get(self, name: str, default: object = None) -> object:
        """Return an argument, or the default where it wasn't given."""
        return self.arguments.get(name, default)

    def switched(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return bool(self.get(name, default=False))

    def error(self, wrong: Failure) -> None:
        """Write an error and go on, unless the script says that it shall stop (``WriteError``).

        Raises:
            Failure: ``-ErrorAction Stop``, or the preference.
        """
        self.report(wrong.record)


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """A command of the machine.

    Attributes:
        parameters: What it takes; `parameter` makes one of words.
        run: Carries it out. What it returns is written to the pipeline: the members of a list, a tuple or a generator,
            anything else but None as one object. It raises `Failure` for an error that ends it
            (``ThrowTerminatingError``).
        prompts: It asks before it acts, so that it fails without ``-Confirm:$false`` or ``-Force`` where nobody can
            answer.
        sets: Its parameter sets, each with all that it takes; none where there is one only.
    """

    parameters: tuple[Parameter, ...]
    run: Callable[[Call], object]
    prompts: bool = False
    sets: tuple[tuple[Parameter, ...], ...] = ()


def parameter(words: str) -> Parameter:
    """Return the parameter that words describe: ``Name string[] 0 mandatory pipeline alias=VMName``.

    Args:
        words: Its name; its type, or the values that it allows with ``|`` between them; then in any order its position,
            ``mandatory``; ``filled`` where neither null nor an empty text will do; ``pipeline`` and ``property`` (what
            it takes from there), ``alias=``.
    """
    name, kind, *rest = words.split()
    choices = tuple(kind.split("|")) if "|" in kind else ()
    plain = "string" if choices else kind.lower().removesuffix("[]")
    said = {word.partition("=")[0] for word in rest}
    rank = 1 if kind.endswith("[]") else 0
    converted = plain in _CONVERTED or rank
    inner = plain if plain in _CONVERTED else "object"
    return Parameter(
        name=name,
        type=TypeName(inner, rank, (), 0) if converted else None,
        default=None,
        mandatory="mandatory" in said,
        position=next((int(word) for word in rest if word.isdigit()), None),
        from_pipeline="pipeline" in said,
        from_property="property" in said,
        choices=choices,
        aliases=tuple(word.partition("=")[2] for word in rest if word.startswith("alias=")),
        not_empty="filled" in said,
        allows_empty=False,
        line=0,
    )


def parameters(lines: Iterable[str]) -> tuple[Parameter, ...]:
    """Return the parameters that lines describe, one each."""
    return tuple(parameter(line) for line in lines)
