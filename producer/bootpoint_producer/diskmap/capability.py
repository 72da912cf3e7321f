"""How a disk would be held still, and how its changes would be found: the answer, and why it is no better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import BootpointError
from bootpoint_producer.probe import shown
from bootpoint_producer.snapshots import choose
from bootpoint_producer.trackers import choice, providers
from bootpoint_producer.trackers.provider import Provider


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a run would do with a disk.

    Attributes:
        snapshot: Kind of the snapshot; None where that can't be said.
        snapshot_reason: Why it is that one, in words.
        tracker: What finds the changed blocks.
        tracker_reason: Why it is that one, in words.
    """

    snapshot: str | None
    snapshot_reason: str | None
    tracker: str | None
    tracker_reason: str | None


#: Of a disk that can't be protected nothing is asked.
NONE = Capabilities(None, None, None, None)


def capabilities(path: Path, trackers: Sequence[Provider] | None = None) -> Capabilities:
    """Say what a run would do with a disk; cheap, and changes nothing.

    Args:
        path: Path of the file or device; it may be gone by now.
        trackers: Who can follow its writes; by default all that are built in.
    """
    found = choice.choose(path, providers() if trackers is None else trackers)
    tracker, why = found.name, shown(found.reason)
    try:
        snapshot = choose({"disk": path})
    except (BootpointError, OSError, ValueError) as problem:
        # The disk went, or a name in /proc is no text: the list goes on without this answer, and says so.
        return Capabilities(None, shown(str(problem)), tracker, why)
    return Capabilities(snapshot.snapshot.kind, shown(snapshot.reason), tracker, why)
