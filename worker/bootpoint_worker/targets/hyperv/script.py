"""The PowerShell module that runs on the host: its text, put together from the files beside this one."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

#: The parts, in their order: the frame is first, for a script's parameters are; the choice of an operation is last, for
#: PowerShell knows a function from its definition on.
PARTS = ("bootpoint", "host", "cluster", "machine", "hardware", "checkpoint", "disk", "address", "dispatch")


@cache
def text() -> str:
    """Return the module's text, in ASCII: PowerShell 5.1 and older read a file without a mark as the host's own code
    page.
    """
    folder = files(__package__).joinpath("module")
    return "\n".join(folder.joinpath(f"{part}.ps1").read_text("ascii") for part in PARTS)


@cache
def file_name() -> str:
    """Return the name of the module on the host: with other content it is another file."""
    return f"bootpoint-{hashlib.sha256(text().encode()).hexdigest()[:16]}.ps1"
