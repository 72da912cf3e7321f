"""What a run works with, made once by the agent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.stream.sender import StreamSender

from .board import RunBoard
from .link import Link
from .snapshots import Snapshot
from .state import AgentState
from .trackers.keeper import TrackerKeeper
from .trackers.sample import SHARE


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run works with.

    Attributes:
        state: The agent's directory.
        link: Messages to the control plane.
        sender: Bundles to the streams.
        resolve: Finds the path of a disk id; raises ``disk_missing`` or ``source_ineligible``.
        known: Does so at once, by what was found a moment ago, where that is still true.
        board: Where is noted what becomes of runs.
        choose: Chooses the snapshot for the paths of the slots.
        trackers: Follow the disks between runs.
        sample_share: Share of what a tracker calls unchanged that each run looks at all the same, 0 to 1.
        turn: Held by the run that works: a script of one must not meet the snapshot of another.
    """

    state: AgentState
    link: Link
    sender: StreamSender
    resolve: Callable[[str], Path]
    known: Callable[[str], Path]
    board: RunBoard
    choose: Callable[[dict[str, Path]], Snapshot]
    trackers: TrackerKeeper
    sample_share: float = SHARE
    turn: threading.Lock = field(default_factory=threading.Lock)
