"""Looks a script for Hyper-V hosts over without running it: does every Windows Server have what it calls?

Each command has to be a function of the script, one of the language's own, or one of the table (`cmdlets`); each
parameter has to be written out, and known to the command. What a newer Windows Server brought is allowed where the
script asks for it before::

    if (Test-Command 'Set-VM' 'CheckpointType') { $more.CheckpointType = 'Standard' }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.hyperv.calls import Site, calls, functions
from tests.hyperv.cmdlets import Reference, Windows, reference
from tests.hyperv.pwsh.binding import COMMON
from tests.hyperv.pwsh.node import Body, Parameter, Splat
from tests.hyperv.pwsh.reader import read
from tests.hyperv.pwsh.stage import FUNCTIONS, STAGES


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a host may not have, or may take otherwise.

    Attributes:
        file: Where.
        line: Where in it, from 1.
        what: What is the matter.
    """

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}"


#: What is the matter with a line.
_Matter = tuple[int, str]


def lint(parts: Mapping[str, str], windows: Windows) -> list[Finding]:
    """Return what is wrong with a script.

    Args:
        parts: Its parts by the names of their files; they know each other's functions.
        windows: The oldest Windows Server on which it is to run.

    Raises:
        SyntaxFault: A part doesn't parse, or has something that is outside the subset.
    """
    bodies = {file: read(text) for file, text in parts.items()}
    own = {name: body for each in bodies.values() for name, body in functions(each)}
    found = [Finding(file, *each) for file, text in parts.items() for each in _foreign_letters(text)]
    for file, body in bodies.items():
        for site in calls(body):
            found += [Finding(file, *each) for each in _judged(site, own, windows)]
    return found


def _foreign_letters(text: str) -> Iterator[_Matter]:
    for at, line in enumerate(text.splitlines(), 1):
        if not line.isascii():
            yield at, "not ASCII: Windows PowerShell reads a file without a mark as its own code page"


# --- what is wrong with a call ---------------------------------------------------------------------------------------


def _judged(site: Site, own: Mapping[str, Body], windows: Windows) -> Iterator[_Matter]:
    name = site.name.lower()
    language, host = STAGES.get(name) or FUNCTIONS.get(name), reference().get(name)
    if name in own:
        yield from _of_function(site, own[name])
    elif language is not None:
        yield from _unknown(site, language[0])
    elif host is not None:
        yield from _of_host(site, host, windows)
    elif name:
        yield site.command.line, f"{site.name} is neither a function of the script nor a command of the table"


def _of_function(site: Site, body: Body) -> Iterator[_Matter]:
    yield from _unknown(site, body.parameters, common=body.advanced)
    named = [name for name, _, _ in site.given() if name.lower() not in COMMON]
    if len([*named, *site.unnamed(body.parameters)]) > len(body.parameters):
        yield site.command.line, f"more arguments than {site.name} has parameters"


def _of_host(site: Site, entry: Reference, windows: Windows) -> Iterator[_Matter]:
    line = site.command.line
    unknown = list(_unknown(site, entry.parameters))
    yield from unknown
    yield from _newer(site, entry, windows)
    yield from _beside_choices(site, entry)
    for each in site.unnamed(entry.parameters):
        yield each.line, f"an argument of {entry.name} without a name"
    if any(isinstance(each, Splat) and site.table(each) is None for each in site.command.elements):
        yield line, f"what is splatted to {entry.name} isn't a hashtable that the function makes"
    names = {name.lower() for name, _, _ in site.given()}
    if entry.prompts and not names & {"force", "confirm"}:
        yield line, f"{entry.name} asks before it acts: say -Force or -Confirm:$false"
    if not unknown and not any(_fits(one, names, piped=site.piped) for one in entry.sets):
        yield line, f"no parameter set of {entry.name} takes just {', '.join(sorted(names)) or 'nothing'}"


def _fits(one: Sequence[Parameter], names: set[str], *, piped: bool) -> bool:
    mine = {each.name.lower() for each in one}
    needed = {each.name.lower() for each in one if each.mandatory and not (piped and each.from_pipeline)}
    return names - set(COMMON) <= mine and needed <= names


def _unknown(site: Site, known: Sequence[Parameter], *, common: bool = True) -> Iterator[_Matter]:
    names = {each.name.lower() for each in known} | (set(COMMON) if common else set())
    for name, line, _ in site.given():
        if name.lower() not in names:
            yield line, f"{site.name} has no parameter -{name}"


def _newer(site: Site, entry: Reference, windows: Windows) -> Iterator[_Matter]:
    """Yield what the oldest Windows Server lacks and the script doesn't ask for."""
    command = entry.name.lower()
    if not windows.has(entry.since.value) and not any(name == command for name, _ in site.guards):
        yield site.command.line, f"{entry.name} is there from Windows Server {entry.since.value} on"
    for name, line, guards in site.given():
        since = {key.lower(): value for key, value in entry.newer.items()}.get(name.lower())
        if since is not None and not windows.has(since.value) and (command, name.lower()) not in guards:
            yield line, f"{entry.name} has -{name} from Windows Server {since.value} on"


def _beside_choices(site: Site, entry: Reference) -> Iterator[_Matter]:
    """Yield texts that aren't among those that a parameter takes."""
    choices = {each.name.lower(): each.choices for each in entry.parameters if each.choices}
    for name, text, line in site.texts():
        allowed = choices.get(name.lower())
        if allowed and text.lower() not in (each.lower() for each in allowed):
            yield line, f"{entry.name} takes {', '.join(allowed)} for -{name}, and not {text}"
