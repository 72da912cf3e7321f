"""What messages of both directions are made of."""

from __future__ import annotations

from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
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

    @classmethod
    def of(cls, problem: BootpointError) -> Problem:
        """Return an error as it travels."""
        value = None if problem.value is None else str(problem.value)
        return cls(code=str(problem.code), message=problem.message, key=problem.key, value=value, hint=problem.hint)


class DiskProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the agent is with one disk; sizes in bytes.

    Attributes:
        stream: The point-disk, where a disk has a stream for each of several targets; None from an older agent.
    """

    slot: str
    size_bytes: int
    scanned_bytes: int
    changed_bytes: int
    wire_bytes: int
    credit_wait_seconds: float
    stream: UUID | None = None


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
