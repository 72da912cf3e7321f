"""Which points go: whatever the limit, what the worst day needs survives."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from bootpoint_common.store.kept import Kept
from bootpoint_common.units import MiB
from bootpoint_worker import entropy, retention
from bootpoint_worker.entropy import Increment

NOW = datetime(2026, 12, 3, tzinfo=UTC)


def _point(
    sequence: int,
    *,
    verified: bool = False,
    damaged: bool = False,
    verdict: str | None = None,
    pinned: bool = False,
    used: bool = False,
    stored: int = 1,
) -> Kept:
    return Kept(
        id=UUID(int=sequence),
        name=f"V{sequence}",
        sequence=sequence,
        verified_at=NOW if verified else None,
        damaged_at=NOW if damaged else None,
        verdict=verdict,
        pinned={"reason": "audit", "user": "ops", "at": None, "until": None} if pinned else None,
        used_by=("test t1",) if used else (),
        stored_bytes=stored,
    )


RARELY = st.sampled_from([False] * 5 + [True])
POINTS = st.lists(
    st.builds(
        lambda *values: values,
        st.booleans(),
        RARELY,
        st.sampled_from([None, "boots", "boots", "does_not_boot", "unknown"]),
        RARELY,
        RARELY,
    ),
    min_size=1,
    max_size=26,
).map(
    lambda found: [
        _point(number, verified=v, damaged=d, verdict=b, pinned=p, used=u)
        for number, (v, d, b, p, u) in enumerate(found, 1)
    ]
)


def _proven(points: list[Kept]) -> list[Kept]:
    return [p for p in points if p.verified_at and not p.damaged_at and p.verdict == "boots"]


@settings(max_examples=600)
@given(points=POINTS, limit=st.one_of(st.integers(1, 4), st.integers(1, 24)), frozen=RARELY)
def test_what_the_worst_day_needs_survives_any_plan(points: list[Kept], limit: int, frozen: bool) -> None:
    plan = retention.work_out(points, limit, frozen=frozen)
    gone = {point.id for point in plan.go}
    left = [point for point in points if point.id not in gone]
    assert bool(_proven(left)) == bool(_proven(points))
    assert _proven(left)[-1:] == _proven(points)[-1:]
    for newest in (
        [p for p in points if p.verified_at and not p.damaged_at],
        [p for p in points if p.verdict == "boots" and not p.damaged_at],
    ):
        assert not newest or newest[-1] in left
    assert left[-1:] == points[-1:]
    assert all(point in left for point in points if point.pinned or point.used_by)
    assert not (frozen and gone)
    # No more than the limit, unless nothing more may go; and never one too few.
    free = [point for point in left if point.id not in plan.kept]
    assert len(left) <= max(limit, 0) or not free
    assert len(left) >= min(limit, len(points))
    assert plan.blocked == (len(points) > limit and not gone)
    # Oldest first: whoever is left and might go is younger than all that went.
    assert all(point.sequence > old.sequence for point in free for old in plan.go)


@given(points=POINTS, limit=st.integers(3, 22))
def test_a_run_that_may_begin_leaves_the_host_within_its_limit(points: list[Kept], limit: int) -> None:
    plan = retention.room(points, limit, 22)
    if not plan.blocked and not plan.go:
        assert len(points) < 22


def test_the_last_verified_and_the_last_bootable_may_be_two_and_the_last_that_is_both_a_third() -> None:
    points = [
        _point(1),
        _point(2, verified=True, verdict="boots"),
        _point(3, verdict="boots"),
        _point(4, verified=True),
        _point(5),
        _point(6),
    ]
    plan = retention.work_out(points, 1)
    assert [point.name for point in plan.go] == ["V1", "V5"]
    assert {key.int: reasons for key, reasons in plan.kept.items()} == {
        2: ("last_proven",),
        3: ("last_bootable",),
        4: ("last_verified",),
        6: ("head",),
    }


def test_a_damaged_point_is_no_proof() -> None:
    points = [_point(1, verified=True), _point(2, verified=True, damaged=True), _point(3)]
    assert [point.name for point in retention.work_out(points, 1).go] == ["V2"]


def test_a_frozen_replica_grows_to_what_its_host_can_keep() -> None:
    points = [_point(number) for number in range(1, 15)]
    assert not retention.room(points, 14, 22, frozen=True).blocked
    points = [_point(number) for number in range(1, 23)]
    assert retention.room(points, 14, 22, frozen=True).blocked


def test_what_merging_frees_is_said_as_a_limit() -> None:
    points = [_point(1, stored=100), _point(2, stored=10), _point(3, stored=30), _point(4, stored=5)]
    assert retention.cost(points, points[:1]) == retention.Cost(freed_bytes=10, copied_bytes=10)
    assert retention.cost(points, points[:2]) == retention.Cost(freed_bytes=40, copied_bytes=40)
    assert retention.cost(points, []) == retention.Cost(0, 0)


def _increments(*sizes: int) -> list[Increment]:
    return [Increment(size * MiB, size * MiB // 3) for size in sizes]


def test_an_increment_far_above_the_usual_that_does_not_compress_is_suspicious() -> None:
    usual = _increments(20, 30, 25, 40, 22)
    assert entropy.suspicious(Increment(400 * MiB, 404 * MiB), usual)
    assert not entropy.suspicious(Increment(400 * MiB, 130 * MiB), usual), "a large copy of what compresses"
    assert not entropy.suspicious(Increment(100 * MiB, 101 * MiB), usual), "a busy day"
    assert not entropy.suspicious(Increment(63 * MiB, 64 * MiB), _increments(1, 1, 1)), "a quiet machine"
    assert not entropy.suspicious(Increment(400 * MiB, 404 * MiB), usual[:2]), "too young to say what is usual"
    # One large increment before doesn't hide the next one.
    assert entropy.suspicious(Increment(400 * MiB, 404 * MiB), [*usual, Increment(900 * MiB, 900 * MiB)])
