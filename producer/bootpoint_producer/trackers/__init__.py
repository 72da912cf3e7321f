"""Ways to find out which blocks changed since the base."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from bootpoint_common.config import AGENT_STATE
from bootpoint_producer.trackers.ebpf.program import Program
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from bootpoint_producer.trackers.provider import Provider
from bootpoint_producer.trackers.thin import ThinProvider

__all__ = ["give_back", "providers", "release"]

_log = logging.getLogger(__name__)


def providers(wanted: str = "auto", *, directory: Path = AGENT_STATE) -> list[Provider]:
    """Return what can follow disks, best first.

    Args:
        wanted: ``auto``, or ``ebpf`` or ``thin`` to have just that, or ``hash`` to have none.
        directory: The agent's own.
    """
    known: dict[str, Callable[[], Provider]] = {
        EbpfProvider.name: lambda: EbpfProvider(Program(owner=_owner(directory))),
        ThinProvider.name: lambda: ThinProvider(directory),
    }
    return [make() for name, make in known.items() if wanted in ("auto", name)]


def give_back(wanted: str, *, directory: Path) -> None:
    """Give back what a tracker holds that isn't wanted any more; called when the agent starts.

    Args:
        wanted: As above.
        directory: The agent's own.
    """
    if wanted in ("auto", ThinProvider.name):
        return
    try:
        ThinProvider(directory).keep_only(())
    except OSError as failure:
        _log.warning("something is held in vain", extra={"tracker": ThinProvider.name, "cause": str(failure)})


def release(*, directory: Path) -> None:
    """Let go of everything in the kernel and in pools: no write is followed any more; the next scans are by hash.

    Args:
        directory: The agent's own.
    """
    Program(owner=_owner(directory)).detach()
    give_back("hash", directory=directory)


def _owner(directory: Path) -> str:
    """Name an agent for what it leaves in the kernel; there may be another one on the machine."""
    return hashlib.sha256(bytes(directory)).hexdigest()[:8]
