"""Prints what pip installs for some extras of bootpoint, one requirement a line, without bootpoint itself.

Images install it before they get the sources, so that a change of the code doesn't fetch everything anew. Needs nothing
but Python.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

#: What comes from Debian instead: made for its libvirt, and pip would need a compiler for it.
FROM_DEBIAN = ("libvirt-python",)


def requirements(project: dict[str, object], extras: list[str]) -> Iterator[str]:
    """Yield what the base and these extras ask for.

    Args:
        project: The table ``project`` of pyproject.toml.
        extras: Names of its extras; one that names another extra of bootpoint includes it.

    Raises:
        KeyError: There is no such extra.
    """
    yield from project["dependencies"]  # type: ignore[misc]
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:  # type: ignore[index]
            if requirement.startswith("bootpoint["):
                yield from requirements(project, [requirement.removeprefix("bootpoint[").removesuffix("]")])
            elif not requirement.startswith(FROM_DEBIAN):
                yield requirement


if __name__ == "__main__":
    found = requirements(tomllib.loads(Path("pyproject.toml").read_text())["project"], sys.argv[1:])
    sys.stdout.write("".join(f"{each}\n" for each in dict.fromkeys(found)))
