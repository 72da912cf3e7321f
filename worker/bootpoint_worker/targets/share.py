"""A disk of a boot point, readable on this machine by programs that speak NBD."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """A disk of a point, shared read-only.

    Attributes:
        slot: Which disk.
        socket: Path of a unix socket of this machine, in a directory that only we can enter.
        size_bytes: Size of the disk; what is shared may be longer by less than a sector, which reads as zero.
    """

    slot: str
    socket: str
    size_bytes: int

    @property
    def uri(self) -> str:
        """As the NBD URI specification and qemu have it."""
        return f"nbd+unix:///?socket={self.socket}"
