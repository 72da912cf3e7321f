"""Watermarks and seals: what of a stream is durable on the target, recorded under the claim of who made it so."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import Fenced
from bootpoint_common.message import DiskProgress
from bootpoint_common.metric import APPLIED, CHANGED, FALLBACKS, SAMPLE_MISSES, SCANNED, WIRE
from bootpoint_common.tally import Amounts

from . import count
from .database import Connection, one, rows, run
from .point import PointDisk

#: The fallback of a run whose sample found a change that the tracker had missed.
SAMPLE_MISS = "sample_miss"

#: How many times a disk's size an agent can have read or found changed: once by its tracker, and once more whole.
_MOST_READINGS = 2


@dataclass(slots=True)
class Watermark:
    """What a slice has made durable on the target since the last record; recorded in one transaction.

    Attributes:
        watermark_bytes: Cumulative encrypted bytes that are flushed.
        sequence: Number of the last bundle that is flushed.
        chain_digest: BLAKE3 chain over the opened bundles up to it.
        applied_bytes: Bytes of the disk that were written, in all.
        segments: Segment digests that came since.
        samples: Grains to read back at the commit: number to digest.
        worker: Name of the process that applied them.
        worker_bytes: How many of the bytes it applied since the last record.
        wire_bytes: Encrypted bytes that it took from the stream since the last record.
    """

    watermark_bytes: int
    sequence: int
    chain_digest: bytes
    applied_bytes: int
    segments: list[tuple[int, bytes]] = field(default_factory=list)
    samples: dict[int, bytes] = field(default_factory=dict)
    worker: str = ""
    worker_bytes: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SealRecord:
    """What the seal of a disk's stream says; sizes in bytes."""

    read_digest: bytes
    applied_digest: bytes
    scanned_bytes: int
    changed_bytes: int
    wire_bytes: int
    tracker: str
    fallback: str | None
    skipped: list[tuple[int, int]]
    consistency: str | None = None


def record(connection: Connection, disk: PointDisk, writer: int, mark: Watermark) -> None:
    """Record what is durable on the target, after its flush and before the ack.

    Raises:
        Fenced: The claim is somebody else's now, or the point is no longer open.
    """
    run(connection, "UPDATE boot_point SET progress_at = now() WHERE id = %s AND state = 'open'", disk.point_id)
    moved = run(
        connection,
        "UPDATE boot_point_disk d SET watermark_bytes = %s, sequence = %s, chain_digest = %s, applied_bytes = %s,"
        " idle = 0, failures = 0, gap_since = NULL,"
        " workers = jsonb_set(workers, ARRAY[%s], to_jsonb(coalesce((workers->>%s)::bigint, 0) + %s))"
        " FROM boot_point p WHERE d.id = %s AND d.writer = %s AND p.id = d.point_id AND p.state = 'open'",
        mark.watermark_bytes,
        mark.sequence,
        mark.chain_digest,
        mark.applied_bytes,
        mark.worker,
        mark.worker,
        mark.worker_bytes,
        disk.id,
        writer,
    )
    if moved != 1:
        raise Fenced
    # A disk of 1 TiB has 65,536 segments: one statement for all of them, not one for each.
    if segments := dict(mark.segments):
        run(
            connection,
            "INSERT INTO segment SELECT %s, number, digest"
            " FROM unnest(%s::integer[], %s::bytea[]) AS new (number, digest)"
            " ON CONFLICT (point_disk_id, number) DO UPDATE SET digest = excluded.digest",
            disk.id,
            list(segments),
            list(segments.values()),
        )
    if mark.samples:
        run(
            connection,
            "INSERT INTO sample SELECT %s, grain, digest FROM unnest(%s::bigint[], %s::bytea[]) AS new (grain, digest)"
            " ON CONFLICT (point_disk_id, grain) DO UPDATE SET digest = excluded.digest",
            disk.id,
            list(mark.samples),
            list(mark.samples.values()),
        )
    count.add(connection, {(APPLIED, ()): mark.worker_bytes, (WIRE, ()): mark.wire_bytes})


def seal(
    connection: Connection, disk: PointDisk, writer: int, mark: Watermark, record_of_seal: SealRecord, *, agent: str
) -> bool:
    """Record a disk's last watermark and its seal.

    Args:
        connection: A transaction.
        disk: The disk.
        writer: Number of the claim.
        mark: What is durable since the last record.
        record_of_seal: What the seal says.
        agent: Name of the agent that made it.

    Returns:
        Whether that was the last disk: the point is sealed now.

    Raises:
        Fenced: As in `record`.
    """
    one(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", disk.point_id)
    record(connection, disk, writer, mark)
    values = record_of_seal
    run(
        connection,
        "UPDATE boot_point_disk SET sealed_at = now(), read_digest = %s, applied_digest = %s, scanned_bytes = %s,"
        " changed_bytes = %s, wire_bytes = %s, tracker = %s, fallback = %s, skipped = %s WHERE id = %s",
        values.read_digest,
        values.applied_digest,
        values.scanned_bytes,
        values.changed_bytes,
        values.wire_bytes,
        values.tracker,
        values.fallback,
        Jsonb(values.skipped),
        disk.id,
    )
    if values.consistency == "crash":
        # Nothing held the disk still, and somebody wrote to it while it was read.
        run(connection, "UPDATE boot_point SET consistency = 'crash' WHERE id = %s", disk.point_id)
    count.add(connection, _counted(disk, values, agent))
    return (
        run(
            connection,
            "UPDATE boot_point SET state = 'sealed', sealed_at = now() WHERE id = %s AND state = 'open'"
            " AND NOT EXISTS (SELECT 1 FROM boot_point_disk WHERE point_id = %s AND sealed_at IS NULL)",
            disk.point_id,
            disk.point_id,
        )
        == 1
    )


def _counted(disk: PointDisk, said: SealRecord, agent: str) -> Amounts:
    """Return what a seal adds to the metrics; what an agent can't have read or found is not believed."""
    most = _MOST_READINGS * disk.size_bytes
    amounts: Amounts = {
        (SCANNED, ()): min(max(said.scanned_bytes, 0), most),
        (CHANGED, ()): min(max(said.changed_bytes, 0), most),
    }
    if said.fallback is not None:
        amounts[FALLBACKS, (said.fallback,)] = 1
    if said.fallback == SAMPLE_MISS:
        amounts[SAMPLE_MISSES, (agent,)] = 1
    return amounts


#: A stream can't have waited for longer than its point is there, nor for less than before. Nobody else writes that
#: column, and the messages of an agent are taken one after the other.
_PROGRESS = """
UPDATE boot_point_disk d SET scanned_bytes = %s, changed_bytes = %s, credit_wait_seconds = greatest(
    b.credit_wait_seconds, least(%s, extract(epoch FROM now() - p.created_at)::double precision))
FROM boot_point p JOIN run r ON r.uid = p.run_uid JOIN boot_point_disk b ON b.point_id = p.id
WHERE d.id = b.id AND p.run_uid = %s AND r.agent_id = %s
    AND d.slot = %s AND d.id = coalesce(%s, d.id) AND d.sealed_at IS NULL AND p.state = 'open'
RETURNING d.credit_wait_seconds - b.credit_wait_seconds AS waited
"""


def progress(connection: Connection, agent_id: UUID, run_uid: UUID, said: DiskProgress) -> float:
    """Keep what an agent's heartbeat says of a disk whose stream isn't sealed.

    Returns:
        Seconds that the stream has waited for credit since the heartbeat before.
    """
    found = rows(
        connection,
        _PROGRESS,
        said.scanned_bytes,
        said.changed_bytes,
        said.credit_wait_seconds,
        run_uid,
        agent_id,
        said.slot,
        said.stream,
    )
    return float(sum(row["waited"] for row in found))
