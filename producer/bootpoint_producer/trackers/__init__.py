"""Ways to find out which blocks changed since the base."""

from __future__ import annotations

from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from bootpoint_producer.trackers.provider import Provider

__all__ = ["providers"]


def providers(wanted: str = "auto") -> list[Provider]:
    """Return what can follow disks, best first.

    Args:
        wanted: ``auto``, or ``ebpf`` to have just that, or ``hash`` to have none.
    """
    known: dict[str, type[Provider]] = {EbpfProvider.name: EbpfProvider}
    return [make() for name, make in known.items() if wanted in ("auto", name)]
