"""What is mounted where: read from the kernel, whose list loses no byte of a name."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """The mounts of the agent's own mount namespace, as they were when this was made."""

    def __init__(self) -> None:
        self._points: dict[str, list[bytes]] = {}
        self._kinds: dict[str, str] = {}
        with contextlib.suppress(OSError):
            for line in _MOUNTS.read_bytes().split(b"\n"):
                self._take(line)

    def _take(self, line: bytes) -> None:
        # proc(5): id parent major:minor root point options [optional …] - type source super-options
        before, _, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ")
        if len(fields) < 5 or len(rest) < 2:
            return
        number = fields[2].decode(errors="replace")
        if number.startswith("0:") and rest[1].startswith(b"/dev/"):  # btrfs has numbers of its own
            with contextlib.suppress(OSError, ValueError):
                source = Path(os.fsdecode(_plain(rest[1]))).stat()
                if stat.S_ISBLK(source.st_mode):
                    number = f"{os.major(source.st_rdev)}:{os.minor(source.st_rdev)}"
        self._points.setdefault(number, []).append(_plain(fields[4]))
        self._kinds[number] = rest[0].decode(errors="replace")

    def of(self, number: str | None) -> bytes | None:
        """Return where a device (``major:minor``) is mounted: the shortest path, for that is what others lie below."""
        points = self._points.get(number or "", ())
        return min(points, key=len, default=None)

    def kind_of(self, number: str | None) -> str | None:
        """Return the type of the file system that is mounted from a device."""
        return self._kinds.get(number or "")


def used_bytes(point: bytes) -> int | None:
    """Return what a mounted file system has in use; None when it doesn't say."""
    try:
        found = os.statvfs(point)
    except OSError:
        return None
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _plain(field: bytes) -> bytes:
    """Undo the octal escapes of a field."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 255]), field)
