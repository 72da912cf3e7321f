"""What an agent says."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from .part import Base, Message, Problem, RunProgress, ScriptResult


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """The agent has started; sent until `Welcome` comes.

    Attributes:
        protocol: Version of the protocol.
        version: Version of the program.
        incarnation: Fresh at each start; messages of older ones are refused.
        machine: The machine's identity, as at the join.
        runs: Runs that it has in hand.
    """

    protocol: int
    version: str
    incarnation: UUID
    machine: dict[str, Any]
    runs: list[UUID] = msgspec.field(default_factory=list)


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """What a join carries under the token's secret: the agent's own new key, and its machine."""

    protocol: int
    version: str
    key_id: int
    key: bytes
    incarnation: UUID
    machine: dict[str, Any]


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Every 10 s: the agent lives, and has these runs in hand."""

    runs: list[RunProgress] = msgspec.field(default_factory=list)


class OfferDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the snapshot."""

    slot: str
    size_bytes: int


class OfferReplica(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent holds for one replica."""

    replica_id: UUID
    base: Base | None = None


class Offer(Message, frozen=True, kw_only=True, tag="offer"):
    """The snapshot stands: here is its instant, and what each replica's increment would stand on."""

    run: UUID
    instant: datetime
    consistency: str
    snapshot: str
    disks: list[OfferDisk]
    replicas: list[OfferReplica]
    scripts: list[ScriptResult] = msgspec.field(default_factory=list)


class More(Message, frozen=True, kw_only=True, tag="more"):
    """There is something in these streams again; ends the wait of an idle slice's successor."""

    disks: list[UUID]


class CreditQuery(Message, frozen=True, kw_only=True, tag="credit?"):
    """The agent waits for credit on these streams."""

    disks: list[UUID]


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The run can't go on at the agent."""

    run: UUID
    problem: Problem
    scripts: list[ScriptResult] = msgspec.field(default_factory=list)


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """What a script after the point did; or a note for the run's log."""

    run: UUID
    scripts: list[ScriptResult] = msgspec.field(default_factory=list)


class Answer(Message, frozen=True, kw_only=True, tag="answer"):
    """The answer to an `Ask`."""

    request: UUID
    answer: dict[str, Any] | None = None
    problem: Problem | None = None


class Event(Message, frozen=True, kw_only=True, tag="event"):
    """Something happens to the machine; said again until `EventTaken` comes.

    Attributes:
        id: The same in each repetition.
        kind: ``shutdown`` or ``restart``.
        origin: Who told the agent, in a few words.
        unheard: Whether the machine was shut down before, and nobody took that event.
    """

    id: UUID
    kind: str
    origin: str
    unheard: bool = False


FromAgent = Hello | Heartbeat | Offer | More | CreditQuery | Failed | Report | Answer | Event
