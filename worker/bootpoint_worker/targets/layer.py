"""What a driver writes into: points that are to be opened and committed, and their layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """One disk of a point that is to be opened.

    Attributes:
        slot: Which disk of the replica.
        point_disk_id: Id of this disk of this point.
        size_bytes: Size of the source disk now; at least the head's size.
    """

    slot: str
    point_disk_id: UUID
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """A point that is to be opened above the head.

    Attributes:
        point_id: Id of the point.
        base_point_id: The head it stands on; None for the first point of a chain.
        epoch: The replica's epoch.
        disks: Every disk of the replica.
    """

    point_id: UUID
    base_point_id: UUID | None
    epoch: int
    disks: tuple[OpenDisk, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """What a driver writes into: one disk's open layer.

    Attributes:
        point_id: The open point.
        slot: Which disk of the replica.
        identity: The driver's name of this very layer, stored before the first byte and compared ever after.
    """

    point_id: UUID
    slot: str
    identity: str


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """A sealed point on its way to being committed: what the journal is to say about it.

    Attributes:
        point_id: Id of the point.
        name: ``V<yyyymmdd_hhmmss>``.
        sequence: Its place in the order of the replica's points.
        instant: The snapshot's instant, aware, UTC.
        kind: ``full`` or ``increment``.
        consistency: ``app``, ``fs`` or ``crash``.
        epoch: The replica's epoch.
        layers: The layer of every disk.
        roots: Root digest (``read_digest``) of every disk, by slot, as 64 hex digits.
    """

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    layers: tuple[Layer, ...]
    roots: Mapping[str, str]
