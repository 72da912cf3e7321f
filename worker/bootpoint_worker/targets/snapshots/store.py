"""Where files of a host lie that bootpoint itself reads and writes there."""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Where files of a host lie; paths are the host's own."""

    @property
    def name(self) -> str:
        """Its name."""

    def get(self, path: str) -> bytes | None:
        """Read a file; None when there is none."""

    def put(self, path: str, data: bytes) -> None:
        """Write a file as a whole, in place of one that is there; a crash may leave a part of it."""

    def move_new(self, source: str, destination: str) -> bool:
        """Give a file another name, which mustn't be taken: then it stays, and False is returned."""

    def delete(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it; nothing when there is none."""

    def list(self, directory: str, pattern: str = "*") -> list[str]:
        """Return the names in a directory that match a pattern (``*``, ``?``), sorted; empty when there is none."""

    def has(self, path: str) -> bool:
        """Tell whether a file is there."""

    def free_bytes(self) -> int:
        """Return how many bytes are free."""
