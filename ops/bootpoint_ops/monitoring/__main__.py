"""Writes the files that are made by code: ``python -m bootpoint_ops.monitoring [DIRECTORY]``, by default ``ops``."""

from __future__ import annotations

import sys
from pathlib import Path

from bootpoint_ops.monitoring.boards import BOARDS, board_text
from bootpoint_ops.monitoring.rulebook import rules_text


def files() -> dict[str, str]:
    """Return the content of every file, by its path below ``ops``."""
    boards = {f"grafana/boards/{name}.json": board_text(name) for name in BOARDS}
    return {"prometheus/bootpoint.rules.yml": rules_text(), **boards}


def main(directory: Path) -> None:
    """Write every file below a directory."""
    for name, content in files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "ops"))
