"""Segment digests and samples: what of a disk's block map the control plane knows."""

from __future__ import annotations

from uuid import UUID

from bootpoint_common.digest import SegmentTable

from .database import Connection, rows


def segments(connection: Connection, replica_id: UUID, slot: str, size_bytes: int, *, upto: int) -> SegmentTable:
    """Read the segment digests of a disk as of a committed point.

    Args:
        connection: A transaction.
        replica_id: The replica.
        slot: The disk.
        size_bytes: Size of the disk at that point.
        upto: The point's sequence number.

    Returns:
        One digest a segment; a segment that no point wrote is all zero.
    """
    found = rows(
        connection,
        "SELECT DISTINCT ON (s.number) s.number, s.digest FROM boot_point p"
        " JOIN boot_point_disk d ON d.point_id = p.id AND d.slot = %s JOIN segment s ON s.point_disk_id = d.id"
        " WHERE p.replica_id = %s AND p.state = 'committed' AND p.sequence <= %s"
        " AND p.chain = (SELECT chain FROM boot_point WHERE replica_id = %s AND sequence = %s)"
        " ORDER BY s.number, p.sequence DESC",
        slot,
        replica_id,
        upto,
        replica_id,
        upto,
    )
    table = SegmentTable(size_bytes)
    table.update((row["number"], row["digest"]) for row in found)
    return table


def own_segments(connection: Connection, point_disk_id: UUID) -> list[tuple[int, bytes]]:
    """Read the segment digests that a point's stream brought."""
    found = rows(
        connection, "SELECT number, digest FROM segment WHERE point_disk_id = %s ORDER BY number", point_disk_id
    )
    return [(row["number"], row["digest"]) for row in found]


def samples(connection: Connection, point_disk_id: UUID) -> dict[int, bytes]:
    """Read the grains that the commit reads back: number to digest."""
    found = rows(connection, "SELECT grain, digest FROM sample WHERE point_disk_id = %s ORDER BY grain", point_disk_id)
    return {row["grain"]: row["digest"] for row in found}
