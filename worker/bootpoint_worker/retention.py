"""Retention: which points of a replica go, and what keeps the others. It only reckons; `consolidation` does it.

The point that goes is the oldest that nothing keeps. Kept are, whatever the limit says: the head, pinned points, points
in use, and three that stand for the worst day: the newest verified one, the newest bootable one, and the newest that is
both, which may be a third. So whatever goes, a point that was proven right and bootable survives if there was one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.store.kept import Kept

#: Verdict of a boot check that proves a point.
BOOTS = "boots"


@dataclass(frozen=True, slots=True)
class Retention:
    """What retention would do.

    Attributes:
        go: Points that go, oldest first.
        kept: Why each point that may not go is kept, by its id; one that may go and needs not isn't among them.
        excess: How many points would have to go.
    """

    go: tuple[Kept, ...]
    kept: dict[UUID, tuple[str, ...]]
    excess: int

    @property
    def blocked(self) -> bool:
        """Whether points would have to go, and none may."""
        return self.excess > 0 and not self.go


def work_out(points: Sequence[Kept], limit: int, *, frozen: bool = False) -> Retention:
    """Say which points go.

    Args:
        points: The replica's committed points, oldest first; the last one is the head. Pins that are over and
            references that no longer hold are not in them.
        limit: How many may stay.
        frozen: Whether nothing may go (entropy watch).

    Returns:
        What goes, and what keeps the others.
    """
    kept = {point.id: reasons for point in points if (reasons := _reasons(points, point, frozen=frozen))}
    free = [point for point in points if point.id not in kept]
    excess = max(0, len(points) - limit)
    return Retention(tuple(free[:excess]), kept, excess)


def _reasons(points: Sequence[Kept], point: Kept, *, frozen: bool) -> tuple[str, ...]:
    found = []
    if point is points[-1]:
        found.append("head")
    if point.pinned is not None:
        found.append("pinned")
    if point.used_by:
        found.append("in_use")
    found += [name for name, proof in _PROOFS.items() if point is _newest(points, proof)]
    if frozen:
        found.append("frozen")
    return tuple(found)


def _verified(point: Kept) -> bool:
    return point.verified_at is not None and point.damaged_at is None


def _bootable(point: Kept) -> bool:
    return point.verdict == BOOTS and point.damaged_at is None


#: What is proven of a point -> whether it is.
_PROOFS: dict[str, Callable[[Kept], bool]] = {
    "last_verified": _verified,
    "last_bootable": _bootable,
    "last_proven": lambda point: _verified(point) and _bootable(point),
}


def _newest(points: Sequence[Kept], proof: Callable[[Kept], bool]) -> Kept | None:
    return next((point for point in reversed(points) if proof(point)), None)


def with_next(points: Sequence[Kept]) -> list[Kept]:
    """Return the points with the one that the next run would commit: what was the head is no longer kept as such."""
    sequence = points[-1].sequence + 1 if points else 1
    return [*points, Kept(id=UUID(int=0), name="", sequence=sequence)]


def room(points: Sequence[Kept], limit: int, most: int, *, frozen: bool = False) -> Retention:
    """Say what has to go before the next run begins, and whether it may begin at all.

    Below the host's limit a new point is committed first and an old one goes after it; at the host's limit one has to
    go before. While nothing may go because retention is frozen, the job's own limit is no reason to refuse a run: a
    replica is always as full as that, and a false alarm would end its protection.

    Args:
        points: The replica's points, oldest first.
        limit: How many the job keeps.
        most: How many the host can keep.
        frozen: Whether nothing may go.

    Returns:
        ``blocked``: nothing may go, and the run is refused. ``go``: what has to go first; the run waits for it.
    """
    after = work_out(with_next(points), most if frozen else limit, frozen=frozen)
    if after.blocked:
        return after
    return work_out(points, most - 1, frozen=frozen)


def reasons_text(point: Kept, reasons: Sequence[str]) -> str:
    """Say for people why a point is kept."""
    words = {
        "head": "the newest",
        "pinned": f"pinned: {(point.pinned or {}).get('reason', '')}",
        "in_use": f"in use by {', '.join(point.used_by)}",
        "last_verified": "the last verified one",
        "last_bootable": "the last bootable one",
        "last_proven": "the last one that is verified and bootable",
        "frozen": "retention is frozen",
    }
    return "; ".join(words[reason] for reason in reasons)


@dataclass(frozen=True, slots=True)
class Cost:
    """What merging takes and gives.

    Attributes:
        freed_bytes: At most; what a point and its successor have in common isn't known before.
        copied_bytes: Bytes of layers that are copied.
    """

    freed_bytes: int
    copied_bytes: int


def cost(points: Sequence[Kept], gone: Sequence[Kept]) -> Cost:
    """Reckon what it costs that points go.

    Args:
        points: The replica's points, oldest first.
        gone: Those of them that go.
    """
    names = {point.id for point in gone}
    freed = copied = 0
    group: list[int] = []
    for point in points:
        if group:  # whatever comes after one that goes is copied into it
            copied += point.stored_bytes
        group.append(point.stored_bytes)
        if point.id not in names:
            freed += sum(group) - max(group)
            group = []
    return Cost(freed, copied)
