"""The NBD servers of replicas, as the machine's process table has them."""

from __future__ import annotations

from pathlib import Path


def servers_in(directory: Path) -> list[int]:
    """Return the pids of all qemu-nbd that serve files below a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[0].endswith(b"qemu-nbd") and any(word.startswith(bytes(directory)) for word in words):
            found.append(int(entry.name))
    return found
