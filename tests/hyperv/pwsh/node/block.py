"""What runs: scripts, functions and script blocks, with their parameters."""

from __future__ import annotations

from dataclasses import dataclass

from tests.hyperv.pwsh.node.expression import Expression, TypeName
from tests.hyperv.pwsh.node.statement import Statement


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function, a script or a script block.

    Attributes:
        name: As written, without ``$``.
        type: What arguments are converted to, or None.
        default: Evaluated where no argument is given.
        mandatory: There is no call without it.
        position: Among the arguments without a name; None where it has no place.
        from_pipeline: Takes the objects of the pipeline.
        from_property: Takes the property of its name of the pipeline's objects.
        choices: ``ValidateSet``: one of these, without regard to case.
        aliases: Other names.
        not_empty: ``ValidateNotNullOrEmpty``.
        allows_empty: ``AllowNull``, ``AllowEmptyString`` or ``AllowEmptyCollection``.
        line: Where it stands.
    """

    name: str
    type: TypeName | None
    default: Expression | None
    mandatory: bool
    position: int | None
    from_pipeline: bool
    from_property: bool
    choices: tuple[str, ...]
    aliases: tuple[str, ...]
    not_empty: bool
    allows_empty: bool
    line: int


@dataclass(frozen=True, slots=True)
class Body:
    """What runs: of a script, a function, a script block.

    Attributes:
        parameters: In their order.
        advanced: It has ``[CmdletBinding()]`` or a ``[Parameter()]``, and thus the common parameters.
        begin: Before the first object of the pipeline.
        process: For each object.
        end: After the last one; what stands in no named block.
        has_process: There is a process block.
        line: Where it starts.
    """

    parameters: tuple[Parameter, ...]
    advanced: bool
    begin: tuple[Statement, ...]
    process: tuple[Statement, ...]
    end: tuple[Statement, ...]
    has_process: bool
    line: int
