"""What the control plane asks an agent: which disks its machine has, and what the grains of one were."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error

from . import diskmap
from .link import Link
from .state import AgentState
from .trackers.keeper import TrackerKeeper

#: Segments whose entries one answer holds at most: 16 times 4 KiB.
MOST_SEGMENTS = 16


class _EntriesAsked(msgspec.Struct):
    """Arguments of the question ``entries``: number and digest (hex) of each segment."""

    replica: UUID
    slot: str
    segments: dict[str, str]


class Questions:
    """Answers questions, each in a thread of its own.

    Args:
        link: The way to who asks.
        state: The agent's state.
        files: Files that count as disks.
        trackers: Who can follow a disk's changes.
    """

    def __init__(self, link: Link, state: AgentState, files: Sequence[Path], trackers: TrackerKeeper) -> None:
        self._link = link
        self._state = state
        self._files = files
        self._trackers = trackers

    def hear(self, asked: message.Ask) -> None:
        """Answer a question when its answer is known; returns at once."""
        threading.Thread(target=self._answer, args=(asked,), name=f"answer {asked.kind}", daemon=True).start()

    def _answer(self, asked: message.Ask) -> None:
        if self._link.present.now() > asked.expires_at:
            return
        known = {"disks": lambda _: self._disks(), "entries": self._entries}
        try:
            if asked.kind not in known:
                raise error(Code.AGENT_TOO_OLD, f"this agent knows no question {asked.kind!r}")
            answer, problem = known[asked.kind](asked.arguments), None
        except BootpointError as failed:
            answer, problem = None, failed
        told = None if problem is None else message.Problem.of(problem)
        self._link.send(message.Answer(request=asked.request, answer=answer, problem=told))

    def _disks(self) -> dict[str, Any]:
        return diskmap.inventory(self._files, trackers=self._trackers.providers)

    def _entries(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Say what the grains of some segments were, as far as a map here still knows; a verification asks."""
        try:
            asked = msgspec.convert(arguments, _EntriesAsked)
            wanted = {int(number): bytes.fromhex(digest) for number, digest in asked.segments.items()}
        except (msgspec.ValidationError, ValueError) as wrong:
            raise error(Code.SPEC_INVALID, f"the question makes no sense: {wrong}") from wrong
        some = dict(sorted(wanted.items())[:MOST_SEGMENTS])
        found = self._state.entries(asked.replica, asked.slot, some)
        return {"entries": {str(number): base64.b64encode(entries).decode() for number, entries in found.items()}}
