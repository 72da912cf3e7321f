"""What a file that can't be read as a VHDX is told as, and reading that never goes on with too few bytes."""

from __future__ import annotations

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.vhdx.file import RandomAccess


def malformed(name: str, what: str, *, hint: str | None = None) -> BootpointError:
    """Return the error for a file that breaks the format, or isn't the one that it has to be.

    Args:
        name: The file.
        what: What is wrong, with the values that matter.
        hint: The way out; by default the code's.

    Returns:
        ``target_check_failed``.
    """
    return error(Code.TARGET_CHECK_FAILED, f"{name}: {what}", key="file", value=name, hint=hint)


def read_exactly(file: RandomAccess, offset: int, length: int, what: str) -> bytes:
    """Read what has to be there.

    Raises:
        BootpointError: ``target_check_failed``: the file ends before; see `RandomAccess` for others.
    """
    data = file.read_at(offset, length)
    if len(data) != length:
        raise malformed(file.name, f"it ends within its {what}: {length} bytes at {offset}, {len(data)} are there")
    return data
