"""Words to systemd about the service that a process is part of (sd_notify(3))."""

from __future__ import annotations

import socket
from contextlib import suppress


def tell(address: str | None, words: str) -> None:
    """Say something to systemd, where it listens.

    Args:
        address: Its socket (`NOTIFY_SOCKET`); None where no systemd waits for a word.
        words: What sd_notify(3) knows, such as ``READY=1``.
    """
    if not address:
        return
    abstract = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end, suppress(OSError):
        end.sendto(words.encode(), abstract)
