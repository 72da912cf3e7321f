"""The actor that makes a point visible. In this order, each step safe to be done again:

1. ``sealed → committing``: no way back; every claim on the disks is ended by a greater number;
2. the roots: segment digests of the head and of this point must give the root that the agent read;
3. the commit takes hold of each layer as its last writer, which ends all earlier ones; then 1 % of the written grains
   are read back;
4. the target makes the point visible, for all disks in one act;
5. ``committed``, the head, and the messages, in one transaction; the streams are deleted after it.
"""

from __future__ import annotations

import logging
from contextlib import closing
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.digest import grain_digest
from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_common.store import ending, event, host, outbox, point, segment, transition
from bootpoint_common.store.claim import Claim, check
from bootpoint_common.store.database import Connection, one_row, run
from bootpoint_common.store.point import Point, PointDisk, State
from bootpoint_common.units import GRAIN

from . import consolidation, entropy, repair, standing
from .context import Context
from .examine import request_profile
from .replica import replica_of
from .step import delete_streams, find, later, note_wait, under_claim
from .targets.base import LayerWriter, Target
from .targets.journal import Journal, JournalPoint
from .targets.layer import CommitPoint, Layer
from .targets.replica import Replica

_log = logging.getLogger(__name__)


def commit(context: Context, point_id: UUID) -> None:
    """Commit a sealed point, or finish the commit that somebody began."""
    found = find(context, point_id, State.SEALED, State.COMMITTING)
    if found is not None:
        under_claim(
            context,
            found,
            "commit",
            lambda held: _commit(context, held, found),
            lambda held, problem: _commit_failed(context, held, found, problem),
        )


def _commit(context: Context, held: Claim, found: Point) -> None:
    with context.database.transaction() as connection:
        current = point.get(connection, found.id, lock=True)
        check(connection, "replica", found.replica_id, held.number)
        if current is None:
            raise Fenced
        disks = point.disks(connection, found.id)
        if current.state is State.SEALED:
            wrong = _wrong_root(connection, found, disks)
            if wrong is not None:
                ending.give_up(connection, found.id, wrong)
                return
        if not transition.committing(connection, found.id):
            raise Fenced
        replica = replica_of(connection, found.replica_id)
        on = host.get(connection, found.host_id)
        seen = standing.seen_now(connection)
    with context.sessions.use(on) as target:
        journal = target.inspect(replica)
        if journal is None or all(known.point_id != found.id for known in journal.points):
            _read_back(context, held, target, replica, found)
        done = target.commit(replica, _sealed(found, disks))
        most = target.point_limit
    held.assert_held()
    with context.database.transaction() as connection:
        _committed(connection, held, found, done)
        entropy.watch(connection, found)
        consolidation.after(connection, found.replica_id, most=most)
        if journal is not None:
            _note_drift(connection, found, journal)
    if journal is not None:
        with context.database.transaction() as connection:
            standing.keep(connection, found.replica_id, journal, seen)
    delete_streams(context, disks)


def _wrong_root(connection: Connection, found: Point, disks: list[PointDisk]) -> BootpointError | None:
    """Compare what the segments give with the root that the seal names."""
    for disk in disks:
        if repair.expected(connection, found, disk).root() != disk.read_digest:
            text = (
                f"disk {disk.slot} of {found.name}: the segments on this base don't give the root that the agent read"
            )
            return error(Code.BASE_MISMATCH, text, job=found.job, host=found.host, key="disk", value=disk.slot)
    return None


def _read_back(context: Context, held: Claim, target: Target, replica: Replica, found: Point) -> None:
    """End all earlier writers, read the sampled grains through a writer of our own, and compare."""
    with context.database.transaction() as connection:
        check(connection, "replica", found.replica_id, held.number)
        disks = point.disks(connection, found.id)
        samples = {disk.slot: segment.samples(connection, disk.id) for disk in disks}
        damaged = repair.below(connection, found)
        tables = {d.slot: repair.expected(connection, found, d) for d in disks if d.slot in damaged}
    wrong = []
    for disk in disks:
        layer = Layer(found.id, disk.slot, disk.layer or "")
        try:
            writer = target.open_writer(replica, layer, disk.writer)
        except Fenced:
            # The target closed the layer for ever in an earlier attempt of this commit, which had read it back.
            with context.database.transaction() as connection:
                check(connection, "replica", found.replica_id, held.number)
            return
        with closing(writer):
            _compare(writer, found, disk, samples[disk.slot])
            if disk.slot in tables:
                wrong += repair.still_damaged(writer, found, disk, damaged[disk.slot], tables[disk.slot])
            held.progress()
    with context.database.transaction() as connection:
        check(connection, "replica", found.replica_id, held.number)
        repair.keep(connection, found, wrong)


def _compare(writer: LayerWriter, found: Point, disk: PointDisk, grains: dict[int, bytes]) -> None:
    for grain, digest in grains.items():
        size = min(GRAIN, disk.size_bytes - grain * GRAIN)
        if grain_digest(writer.read(grain * GRAIN, size)) != digest:
            text = f"disk {disk.slot} of {found.name}: grain {grain} doesn't read back as it was written"
            raise error(Code.TARGET_CHECK_FAILED, text, job=found.job, host=found.host, key="grain", value=grain)


def _sealed(found: Point, disks: list[PointDisk]) -> CommitPoint:
    return CommitPoint(
        point_id=found.id,
        name=found.name,
        sequence=found.sequence,
        instant=found.instant,
        kind=found.kind,
        consistency=found.consistency,
        epoch=found.epoch,
        layers=tuple(Layer(found.id, disk.slot, disk.layer or "") for disk in disks),
        roots={disk.slot: (disk.read_digest or b"").hex() for disk in disks},
    )


def _committed(connection: Connection, held: Claim, found: Point, done: JournalPoint) -> None:
    if found.base is not None:
        point.get(connection, found.base, lock=True)  # the entropy watch may pin it
    point.get(connection, found.id, lock=True)
    check(connection, "replica", found.replica_id, held.number)
    below = repair.below(connection, found)
    transition.committed(connection, found, {disk.slot: disk.stored_bytes for disk in done.disks})
    event.of_point(
        connection,
        found,
        "point_committed",
        f"{found.name} is committed",
        actor="worker",
    )
    request_profile(connection, found)
    repair.committed(connection, found, below)
    ended = ending.settle(connection, found.run_uid)
    told = message.Committed(
        run=found.run_uid, replica_id=found.replica_id, point_id=found.id, name=found.name, run_ended=ended
    )
    outbox.tell(connection, found.agent, found.id, told)


def _note_drift(connection: Connection, found: Point, journal: Journal) -> None:
    """Keep what the host showed of the standby before this commit; what somebody changed outside is drift."""
    before = one_row(connection, "SELECT drift FROM replica WHERE id = %s", found.replica_id)
    run(connection, "UPDATE replica SET drift = %s WHERE id = %s", journal.drift, found.replica_id)
    if journal.drift is not None and journal.drift != before["drift"]:
        event.of_point(
            connection,
            found,
            "drift",
            f"the standby was started outside bootpoint: {journal.drift}",
            actor="worker",
            code=str(Code.DRIFT),
        )


def _commit_failed(context: Context, held: Claim, found: Point, problem: BootpointError) -> None:
    """Give the point up where the host has no trace of it, or where its check failed; else the reaper tries again."""
    later(context, found)
    if problem.code not in (Code.LAYER_LOST, Code.TARGET_CHECK_FAILED, Code.EPOCH_STALE) or _on_host(context, found):
        note_wait(context, found, "its commit", problem)
        return
    with context.database.transaction() as connection:
        point.get(connection, found.id, lock=True)
        check(connection, "replica", found.replica_id, held.number)
        ending.give_up(connection, found.id, problem, force=True)


def _on_host(context: Context, found: Point) -> bool:
    """Tell whether the host shows the point as committed: then there is no way back, whatever failed after it."""
    with context.database.transaction() as connection:
        replica = replica_of(connection, found.replica_id)
        on = host.get(connection, found.host_id)
    with context.sessions.use(on) as target:
        journal = target.inspect(replica)
    return journal is not None and any(known.point_id == found.id for known in journal.points)
