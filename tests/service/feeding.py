"""A replica that is fed without broker, worker and host: the real feed on one side, the real opener on the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.bundle import Kind, Opener, Seal, decode_seal, decode_segments
from bootpoint_common.cipher import AgentKey
from bootpoint_common.digest import SegmentTable
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN
from bootpoint_producer.feed import Feed, Ground, in_line
from bootpoint_producer.sources import open_source
from bootpoint_producer.trackers.base import Tracker
from bootpoint_producer.trackers.hash import HashTracker
from bootpoint_producer.usedblocks import Choice

KEY = AgentKey(7, bytes(range(32)))


@dataclass
class Outcome:
    """What one run did.

    Attributes:
        seal: The seal.
        sent: Grains that travelled as data.
    """

    seal: Seal
    sent: set[int] = field(default_factory=set)

    @property
    def skipped(self) -> set[int]:
        """Grains that the seal lists."""
        return {grain for at, size in self.seal.skipped for grain in range(at // GRAIN, (at + size) // GRAIN)}


@dataclass
class FedReplica:
    """A disk, its replica in a file, and the map of the last run."""

    source: Path
    replica: Path
    map_path: Path | None = None
    runs: int = 0

    def run(
        self,
        chosen: Choice | None = None,
        *,
        tracker: Tracker | None = None,
        lost: bool = False,
        resend: frozenset[int] = frozenset(),
    ) -> Outcome:
        """Bring the replica up to date, and require that both sides end with the same root."""
        self.runs += 1
        held = self._table()
        ground = Ground(resend=resend)
        if self.map_path is not None:
            ground = Ground(head=held, resend=resend) if lost else Ground(base=self.map_path, resend=resend)
        self.map_path = self.replica.with_name(f"{self.replica.name}.{self.runs}.map")
        point, stream = uuid4(), uuid4()
        source = open_source(self.source)
        size = source.size_bytes
        feed = Feed(
            slot="system",
            source=source,
            tracker=tracker or HashTracker(),
            ground=ground,
            candidate_path=self.map_path,
            key=KEY,
            point_id=point,
            point_disk_id=stream,
            before_seal=lambda *_: None,
            confirm_consistency=lambda: "fs",
            left_out=chosen,
            encoding=in_line,
        )
        opener = Opener({KEY.key_id: KEY.secret}, point, stream, size)
        other_side = SegmentTable(size) if held is None else held.grown(size)
        sent = set[int]()
        seal: Seal | None = None
        with self.replica.open("w+b" if self.runs == 1 else "r+b") as file:
            file.truncate(size)
            for body, _ in feed.bodies():
                bundle = opener.open(body)
                if bundle.kind is Kind.MAP:
                    other_side.update(decode_segments(bundle.payload))
                elif bundle.kind is Kind.SEAL:
                    seal = decode_seal(bundle.payload)
                at = 0
                for extent in bundle.extents:
                    file.seek(extent.offset)
                    if extent.zero:
                        file.write(bytes(extent.length))
                        continue
                    file.write(bundle.payload[at : at + extent.length])
                    at += extent.length
                    sent |= _grains(extent)
        source.close()
        assert seal is not None
        assert seal.root == other_side.root().hex()
        return Outcome(seal, sent)

    def _table(self) -> SegmentTable | None:
        if self.map_path is None:
            return None
        with BlockMap.open(self.map_path) as base:
            return SegmentTable(base.size_bytes, base.segment_digests())


def _grains(extent: Extent) -> set[int]:
    return set(range(extent.offset // GRAIN, -(-extent.end // GRAIN)))
