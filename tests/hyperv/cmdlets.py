"""The commands of Hyper-V hosts, as Microsoft's reference lists them for each Windows Server (cmdlets.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from tests.hyperv.pwsh.cmdlet import Call, Cmdlet, parameter
from tests.hyperv.pwsh.node import Parameter


class Windows(Enum):
    """A Windows Server, older ones first; the free Hyper-V Server of a year has the same commands."""

    SERVER_2012 = "2012"
    SERVER_2012_R2 = "2012R2"
    SERVER_2016 = "2016"
    SERVER_2019 = "2019"
    SERVER_2022 = "2022"

    def has(self, since: str) -> bool:
        """Tell whether what came with another Windows Server is there in this one."""
        order = list(Windows)
        return order.index(Windows(since)) <= order.index(self)


@dataclass(frozen=True, slots=True)
class Reference:
    """What Microsoft's reference says of a command.

    Attributes:
        name: Its name.
        module: The module that it is of.
        since: The oldest Windows Server that has it.
        prompts: It asks before it acts.
        sets: Its parameter sets, each with all that it takes.
        newer: Parameters that came after the command itself: the oldest Windows Server that has each.
    """

    name: str
    module: str
    since: Windows
    prompts: bool
    sets: tuple[tuple[Parameter, ...], ...]
    newer: Mapping[str, Windows]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters, each once."""
        return tuple({each.name: each for one in self.sets for each in one}.values())


@cache
def reference(windows: Windows | None = None) -> Mapping[str, Reference]:
    """Return what a Windows Server has, by the commands' names in small letters.

    Args:
        windows: Which one; None for all that there is in any.
    """
    found = {name.lower(): _entry(name, entry, windows) for name, entry in _table().items()}
    return {name: each for name, each in found.items() if windows is None or windows.has(each.since.value)}


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("cmdlets.toml").read_text("utf-8"))


def _entry(name: str, entry: dict[str, Any], windows: Windows | None) -> Reference:
    every = entry.get("all", [])
    lines = [[*every, *more] for more in entry.get("sets", [[]])]
    newer = {line.split()[0]: _since(line) for one in lines for line in one}
    return Reference(
        name=name,
        module=entry["module"],
        since=Windows(entry["since"]),
        prompts=entry.get("prompts", False),
        sets=tuple(tuple(_parameters(one, windows)) for one in lines),
        newer={each: since for each, since in newer.items() if since is not None},
    )


def _since(line: str) -> Windows | None:
    words = [word.removeprefix("since=") for word in line.split() if word.startswith("since=")]
    return Windows(words[0]) if words else None


def _parameters(lines: list[str], windows: Windows | None) -> list[Parameter]:
    kept = [line for line in lines if windows is None or _known(line, windows)]
    return [parameter(line) for line in kept]


def _known(line: str, windows: Windows) -> bool:
    since = _since(line)
    return since is None or windows.has(since.value)


def cmdlets(windows: Windows, carried: Mapping[str, Callable[[Call], object]]) -> dict[str, Cmdlet]:
    """Return commands as a Windows Server has them, ready for `tests.hyperv.pwsh.run`.

    Args:
        windows: Which one: commands that it lacks are left out, and parameters that it lacks are unknown.
        carried: What carries out each command, by its name.

    Raises:
        KeyError: A command isn't in the table.
    """
    every, here = reference(), reference(windows)
    found = {}
    for name, run in carried.items():
        each = every[name.lower()]
        if name.lower() in here:
            each = here[name.lower()]
            found[each.name] = Cmdlet(each.parameters, run, each.prompts, each.sets)
    return found
