"""Which tracker a disk gets, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .hash import HashTracker
from .provider import Provider


@dataclass(frozen=True, slots=True)
class TrackerChoice:
    """How changes of a disk are found, and why so.

    Attributes:
        name: ``ebpf``, ``thin`` or ``hash``.
        reason: In words.
        provider: Who follows the disk; None where it is scanned by hash.
    """

    name: str
    reason: str
    provider: Provider | None = None


def choose(path: Path, providers: Sequence[Provider]) -> TrackerChoice:
    """Choose the first provider that can follow a disk; quick, and changes nothing.

    Args:
        path: The disk's device or file.
        providers: Best first.
    """
    reasons: list[str] = []
    for provider in providers:
        why_not = provider.why_not(path)
        if why_not is None:
            return TrackerChoice(provider.name, "; ".join([*reasons, "its writes are followed"]), provider)
        reasons.append(f"{provider.name}: {why_not}")
    return TrackerChoice(HashTracker.name, "; ".join(reasons) or "the configuration wants no other")
