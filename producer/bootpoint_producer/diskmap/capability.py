"""How a disk would be held still, and how its changes would be found: the answer, and why it is no better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import BootpointError
from bootpoint_producer.probe import shown
from bootpoint_producer.snapshots import choose


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


def capabilities(path: Path) -> Capabilities:
    """Say what a run would do with a disk; cheap, and changes nothing.

    Args:
        path: Path of the file or device; it may be gone by now.
    """
    tracker, why = "hash", "no other tracker is built in"
    try:
        choice = choose({"disk": path})
    except (BootpointError, OSError, ValueError) as problem:
        # The disk went, or a name in /proc is no text: the list goes on without this answer, and says so.
        return Capabilities(None, shown(str(problem)), tracker, why)
    return Capabilities(choice.snapshot.kind, shown(choice.reason), tracker, why)
