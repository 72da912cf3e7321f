"""Text files that appear whole: what was there before stays until the new one is on the disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bootpoint_common.durable import sync_folder
from bootpoint_common.errors import Code, error


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Give a file to write to, and let it take its place when the block has ended well; else nothing has changed.

    Args:
        path: Where it is to be; what is there is replaced.

    Raises:
        UsageError: ``spec_invalid``: it can't be written there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            file = part.open("x", encoding="utf-8")
        except OSError as exc:
            text = f"{path} can't be written: {exc.strerror}"
            raise error(Code.SPEC_INVALID, text, key="--save", value=str(path)) from exc
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)
