"""Control messages between agents and workers: what travels, encrypted, beside the bundles.

Every message is small, may come twice, and may come late. None carries a block of data. Encoding is
MessagePack of tagged structs; unknown fields are ignored, so that protocol n and n-1 understand each other.

An agent repeats `Hello`, `Offer` and `Report` until they are answered, and `Failed` until the run is gone; `Credit` may
be lost and is asked for again. Of `NewLimits` a lost one comes again with the next heartbeat.
"""

from __future__ import annotations

import msgspec

from .from_agent import (
    Answer,
    CreditQuery,
    Event,
    Failed,
    FromAgent,
    Heartbeat,
    Hello,
    Join,
    More,
    Offer,
    OfferDisk,
    OfferReplica,
    Report,
)
from .part import Base, BaseDisk, DiskProgress, Problem, RunProgress, ScriptResult
from .to_agent import (
    Aborted,
    Ask,
    Committed,
    Credit,
    EventRun,
    EventTaken,
    NewLimits,
    Noted,
    Ready,
    ReadyDisk,
    ResendFrom,
    RunDeadline,
    RunDisk,
    RunReplica,
    StartRun,
    ToAgent,
    Welcome,
    segment_bits,
    segment_numbers,
)

#: Version of the protocol that this code speaks; a worker serves this one and the one before it.
PROTOCOL = 1


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


__all__ = [
    "PROTOCOL",
    "Aborted",
    "Answer",
    "Ask",
    "Base",
    "BaseDisk",
    "Committed",
    "Credit",
    "CreditQuery",
    "DiskProgress",
    "Event",
    "EventRun",
    "EventTaken",
    "Failed",
    "FromAgent",
    "Heartbeat",
    "Hello",
    "Join",
    "More",
    "NewLimits",
    "Noted",
    "Offer",
    "OfferDisk",
    "OfferReplica",
    "Problem",
    "Ready",
    "ReadyDisk",
    "Report",
    "ResendFrom",
    "RunDeadline",
    "RunDisk",
    "RunProgress",
    "RunReplica",
    "ScriptResult",
    "StartRun",
    "ToAgent",
    "Welcome",
    "control_route",
    "decode_from_agent",
    "decode_join",
    "decode_to_agent",
    "encode",
    "encode_join",
    "inbox_route",
    "segment_bits",
    "segment_numbers",
]
