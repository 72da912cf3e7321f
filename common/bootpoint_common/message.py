"""Control messages between agents and workers: what travels, encrypted, beside the bundles.

Every message is small, may come twice, and may come late. None carries a block of data. Encoding is
MessagePack of tagged structs; unknown fields are ignored, so that protocol n and n-1 understand each other.

An agent repeats `Hello`, `Offer` and `Report` until they are answered, and `Failed` until the run is gone; `Credit` may
be lost and is asked for again. Of `NewLimits` a lost one comes again with the next heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

#: Version of the protocol that this code speaks; a worker serves this one and the one before it.
PROTOCOL = 1


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What all control messages have in common."""


class BaseDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of a base; all fields must equal the head's."""

    slot: str
    size_bytes: int
    grain: int
    root: bytes


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """What an increment is a difference to."""

    point_id: UUID
    disks: list[BaseDisk]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error on its way through the broker; fields as in `errors.BootpointError`."""

    code: str
    message: str
    key: str | None = None
    value: str | None = None
    hint: str | None = None


class DiskProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the agent is with one disk; sizes in bytes."""

    slot: str
    size_bytes: int
    scanned_bytes: int
    changed_bytes: int
    wire_bytes: int
    credit_wait_seconds: float


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A run that the agent has in hand.

    Attributes:
        run: The run's id.
        disks: How far it is.
        revision: The job's revision whose limits it heeds; None from an agent that doesn't know limits.
    """

    run: UUID
    disks: list[DiskProgress] = []
    revision: int | None = None


class ScriptResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a script of the job did."""

    stage: str
    exit_code: int | None
    duration_seconds: float
    output: str


# --- from an agent ----------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
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
    runs: list[UUID] = []


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """What a join carries under the token's secret: the agent's own new key, and its machine."""

    protocol: int
    version: str
    key_id: int
    key: bytes
    incarnation: UUID
    machine: dict[str, Any]


class Heartbeat(_Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Every 10 s: the agent lives, and has these runs in hand."""

    runs: list[RunProgress] = []


class OfferDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the snapshot."""

    slot: str
    size_bytes: int


class OfferReplica(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent holds for one replica."""

    replica_id: UUID
    base: Base | None = None


class Offer(_Message, frozen=True, kw_only=True, tag="offer"):
    """The snapshot stands: here is its instant, and what each replica's increment would stand on."""

    run: UUID
    instant: datetime
    consistency: str
    snapshot: str
    disks: list[OfferDisk]
    replicas: list[OfferReplica]
    scripts: list[ScriptResult] = []


class More(_Message, frozen=True, kw_only=True, tag="more"):
    """There is something in these streams again; ends the wait of an idle slice's successor."""

    disks: list[UUID]


class CreditQuery(_Message, frozen=True, kw_only=True, tag="credit?"):
    """The agent waits for credit on these streams."""

    disks: list[UUID]


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """The run can't go on at the agent."""

    run: UUID
    problem: Problem
    scripts: list[ScriptResult] = []


class Report(_Message, frozen=True, kw_only=True, tag="report"):
    """What a script after the point did; or a note for the run's log."""

    run: UUID
    scripts: list[ScriptResult] = []


class Answer(_Message, frozen=True, kw_only=True, tag="answer"):
    """The answer to an `Ask`."""

    request: UUID
    answer: dict[str, Any] | None = None
    problem: Problem | None = None


class Event(_Message, frozen=True, kw_only=True, tag="event"):
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


# --- to an agent ------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """The hello with this incarnation was taken."""

    incarnation: UUID


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


class StartRun(_Message, frozen=True, kw_only=True, tag="run"):
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
    skip: list[str] = []
    scripts: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    replicas: list[RunReplica] = []
    last_breath: bool = False
    time_zone: str | None = None
    revision: int = 0
    deadline: RunDeadline | None = None


class NewLimits(_Message, frozen=True, kw_only=True, tag="limits"):
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


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
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


class Credit(_Message, frozen=True, kw_only=True, tag="credit"):
    """Publish until this cumulative offset; the largest one that came holds."""

    point_disk_id: UUID
    may_send_until: int


class ResendFrom(_Message, frozen=True, kw_only=True, tag="resend_from"):
    """A gap: publish again everything from this sequence number on."""

    point_disk_id: UUID
    sequence: int


class Committed(_Message, frozen=True, kw_only=True, tag="committed"):
    """The point stands: it is the base now."""

    run: UUID
    replica_id: UUID
    point_id: UUID
    name: str
    run_ended: bool


class Aborted(_Message, frozen=True, kw_only=True, tag="aborted"):
    """The point is gone (or the run, where it never had one)."""

    run: UUID
    replica_id: UUID | None
    point_id: UUID | None
    problem: Problem


class Noted(_Message, frozen=True, kw_only=True, tag="noted"):
    """The report about a run was taken; it is repeated until this comes."""

    run: UUID


class Ask(_Message, frozen=True, kw_only=True, tag="ask"):
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


class EventTaken(_Message, frozen=True, kw_only=True, tag="event_taken"):
    """An event was taken, or refused with its problem.

    Attributes:
        id: The event's.
        repeated: Whether somebody had said the same a moment before.
        runs: What it means for each job that it concerns.
        problem: Why it was refused.
    """

    id: UUID
    repeated: bool = False
    runs: list[EventRun] = []
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


FromAgent = Hello | Heartbeat | Offer | More | CreditQuery | Failed | Report | Answer | Event
ToAgent = (
    Welcome | StartRun | NewLimits | Ready | Credit | ResendFrom | Committed | Aborted | Noted | Ask | EventTaken
)


def control_route(agent: str, pool: str) -> str:
    """Return the routing key that an agent's messages to a pool travel under; part of what is authenticated."""
    return f"{agent}.control.{pool}"


def inbox_route(agent: str) -> str:
    """Return the name of an agent's queue: the routing key of messages to it."""
    return f"agent.{agent}"


_encoder = msgspec.msgpack.Encoder()
_join = msgspec.msgpack.Decoder(Join)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)


def encode(message: FromAgent | ToAgent) -> bytes:
    """Write a message as MessagePack."""
    return _encoder.encode(message)


def encode_join(join: Join) -> bytes:
    """Write a join as MessagePack."""
    return _encoder.encode(join)


def decode_join(data: bytes) -> Join:
    """Read a join.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _join.decode(data)


def decode_from_agent(data: bytes) -> FromAgent:
    """Read what an agent sent.

    Raises:
        msgspec.DecodeError: It is no message of this protocol.
    """
    return _from_agent.decode(data)


def decode_to_agent(data: bytes) -> ToAgent:
    """Read what was sent to an agent.

    Raises:
        msgspec.DecodeError: It is no message of this protocol.
    """
    return _to_agent.decode(data)
