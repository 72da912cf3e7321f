"""What an agent is told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from .part import Base, Message, Problem


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The hello with this incarnation was taken.

    Attributes:
        incarnation: The hello's.
        now: The present when this was written, by the database's clock; None from a worker that doesn't say it.
    """

    incarnation: UUID
    now: datetime | None = None


class RunDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk that the job protects; `id` as in the job file."""

    slot: str
    id: str


class RunReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that the run feeds."""

    replica_id: UUID
    host: str


class RunDeadline(msgspec.Struct, frozen=True, kw_only=True):
    """When a run has to be done, and what is known of how long it takes.

    Attributes:
        seconds: What is left until then, when this was written. No instant: the clocks may differ by more than that.
        bytes_per_second: How fast earlier runs of the job read and sent.
        overhead_seconds: What a run takes that finds nothing changed.
        whole_bytes: What there is to read of each slot where no tracker knows what changed.
    """

    seconds: float
    bytes_per_second: float
    overhead_seconds: float
    whole_bytes: dict[str, int]


class StartRun(Message, frozen=True, kw_only=True, tag="run"):
    """Make a snapshot and offer it.

    Attributes:
        run: The run's id.
        number: The run's number, for people and scripts.
        job: The job's name.
        pool: Where messages about this run are sent.
        expires_at: Not begun after this instant.
        disks: What is protected, in the order of the standby's disks.
        consistency: Lowest accepted.
        skip: What is left out.
        scripts: As in the job file.
        limits: As in the job file.
        replicas: Who gets the blocks.
        last_breath: The machine is about to stop: larger windows, no waiting, no limits.
        time_zone: The job's, for limits by time of day.
        revision: The job's revision that all of this is of.
        deadline: Of a last-breath run: not begun if it would take longer.
    """

    run: UUID
    number: int
    job: str
    pool: str
    expires_at: datetime
    disks: list[RunDisk]
    consistency: str
    skip: list[str] = msgspec.field(default_factory=list)
    scripts: dict[str, Any] = msgspec.field(default_factory=dict)
    limits: dict[str, Any] = msgspec.field(default_factory=dict)
    replicas: list[RunReplica] = msgspec.field(default_factory=list)
    last_breath: bool = False
    time_zone: str | None = None
    revision: int = 0
    deadline: RunDeadline | None = None


class NewLimits(Message, frozen=True, kw_only=True, tag="limits"):
    """The job's limits were changed while its run goes on; of several, the one of the latest revision holds.

    Attributes:
        run: The run's id.
        limits: As in the job file.
        time_zone: The job's.
        revision: The job's revision.
    """

    run: UUID
    limits: dict[str, Any]
    time_zone: str | None
    revision: int


class ReadyDisk(msgspec.Struct, frozen=True, kw_only=True):
    """An open stream.

    Attributes:
        slot: Which disk.
        point_disk_id: Name of the stream.
        may_send_until: First credit, in cumulative encrypted bytes.
        head_segments: Segment digests of the head, 32 bytes each, when the agent's base isn't the head.
        resend: Segments that the replica holds damaged: every grain of them travels again, changed or not. A bit for
            each, `segment_bits` makes it; None where there are none. (An agent that doesn't know it leaves the damage
            as it is, which the commit finds.)
    """

    slot: str
    point_disk_id: UUID
    may_send_until: int
    head_segments: bytes | None = None
    resend: bytes | None = None


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """The layer is open: publish.

    Attributes:
        run: The run's id.
        replica_id: Which replica.
        point_id: Id of the new point.
        name: Its name.
        head: What the layer stands on; None for a full copy.
        disks: The streams.
    """

    run: UUID
    replica_id: UUID
    point_id: UUID
    name: str
    head: Base | None
    disks: list[ReadyDisk]


class Credit(Message, frozen=True, kw_only=True, tag="credit"):
    """Publish until this cumulative offset; the largest one that came holds."""

    point_disk_id: UUID
    may_send_until: int


class ResendFrom(Message, frozen=True, kw_only=True, tag="resend_from"):
    """A gap: publish again everything from this sequence number on."""

    point_disk_id: UUID
    sequence: int


class Committed(Message, frozen=True, kw_only=True, tag="committed"):
    """The point stands: it is the base now."""

    run: UUID
    replica_id: UUID
    point_id: UUID
    name: str
    run_ended: bool


class Aborted(Message, frozen=True, kw_only=True, tag="aborted"):
    """The point is gone (or the run, where it never had one).

    Attributes:
        job: The run's job, where the agent may never have had the run in hand, and waits for one of that job.
    """

    run: UUID
    replica_id: UUID | None
    point_id: UUID | None
    problem: Problem
    job: str | None = None


class Noted(Message, frozen=True, kw_only=True, tag="noted"):
    """The report about a run was taken; it is repeated until this comes."""

    run: UUID


class Ask(Message, frozen=True, kw_only=True, tag="ask"):
    """A live question, such as ``disks``; ignored after it expired."""

    request: UUID
    kind: str
    arguments: dict[str, Any]
    expires_at: datetime


class EventRun(msgspec.Struct, frozen=True, kw_only=True):
    """What an event means for one job.

    Attributes:
        job: The job's name.
        run: The run that it began, or waits for; None where it waits for its turn.
        number: That run's number.
        seconds: What is left until it has to be done; None where nobody waits for it.
        problem: Why there is none.
    """

    job: str
    run: UUID | None = None
    number: int | None = None
    seconds: float | None = None
    problem: Problem | None = None


class EventTaken(Message, frozen=True, kw_only=True, tag="event_taken"):
    """An event was taken, or refused with its problem.

    Attributes:
        id: The event's.
        repeated: Whether somebody had said the same a moment before.
        runs: What it means for each job that it concerns.
        problem: Why it was refused.
    """

    id: UUID
    repeated: bool = False
    runs: list[EventRun] = msgspec.field(default_factory=list)
    problem: Problem | None = None


def segment_bits(numbers: Iterable[int]) -> bytes | None:
    """Write numbers of segments as bits: number n is bit n % 8 of byte n // 8; None where there are none."""
    bits = bytearray()
    for number in numbers:
        bits.extend(bytes(max(0, number // 8 + 1 - len(bits))))
        bits[number // 8] |= 1 << number % 8
    return bytes(bits) or None


def segment_numbers(bits: bytes | None) -> frozenset[int]:
    """Read what `segment_bits` wrote."""
    return frozenset(at * 8 + bit for at, byte in enumerate(bits or b"") for bit in range(8) if byte >> bit & 1)


ToAgent = Welcome | StartRun | NewLimits | Ready | Credit | ResendFrom | Committed | Aborted | Noted | Ask | EventTaken
