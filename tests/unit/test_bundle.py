"""Bundles: what is sealed opens to the same, and nothing else opens."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bootpoint_common import frame
from bootpoint_common.bundle import (
    MAX_BODY,
    MAX_EXTENTS,
    MAX_RAW,
    Kind,
    Opener,
    Place,
    Seal,
    Sealer,
    decode_seal,
    decode_segments,
    encode,
    encode_seal,
    encode_segments,
    peek,
)
from bootpoint_common.crypto import AgentKey, Reject
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "bundle.json").read_text())

KEY = AgentKey(7, bytes(range(32)))
POINT = UUID("0193b3a0-0000-7000-8000-000000000001")
DISK = UUID("0193b3a0-0000-7000-8000-000000000002")
SIZE = 10 * GRAIN + 512


def sealer(key: AgentKey = KEY) -> Sealer:
    return Sealer(key, POINT, DISK)


def opener() -> Opener:
    return Opener({KEY.key_id: KEY.secret}, POINT, DISK, SIZE)


def seal_of(chain: bytes) -> Seal:
    return Seal(
        root="00" * 32, chain=chain.hex(), changed_bytes=0, scanned_bytes=0, zero_bytes=0, wire_bytes=0, tracker="hash"
    )


def refused(reason: Reject, body: bytes, by: Opener | None = None) -> None:
    by = by or opener()
    before = by.sequence, by.offset, by.chain
    with pytest.raises(BootpointError) as caught:
        by.open(body)
    assert (caught.value.code, caught.value.value) == (Code.BUNDLE_REJECTED, reason)
    assert (by.sequence, by.offset, by.chain) == before


@st.composite
def extents(draw: st.DrawFn) -> list[Extent]:
    """Ascending extents inside the disk of `SIZE` bytes, the partial last grain now and then among them."""
    cuts = sorted(draw(st.sets(st.integers(0, 10), min_size=1)))
    ends = [*(cut * GRAIN for cut in cuts), SIZE]
    spans = draw(st.lists(st.booleans(), min_size=len(cuts), max_size=len(cuts)).filter(any))
    return [
        Extent(a, b - a, draw(st.booleans()))
        for (a, b), used in zip(itertools.pairwise(ends), spans, strict=True)
        if used
    ]


@settings(deadline=None)
@given(st.lists(extents(), min_size=1, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_what_is_sealed_opens_to_the_same(bundles: list[list[Extent]], random: Random, dense: bool) -> None:
    by, to = sealer(), opener()
    for number, ranges in enumerate(bundles):
        size = sum(extent.length for extent in ranges if not extent.zero)
        payload = random.randbytes(size) if dense else bytes(size)
        body = by.seal(encode(Kind.DATA, ranges, memoryview(payload)))
        assert (peek(body).sequence, to.place(body)) == (number, Place.NEXT)
        bundle = to.open(body)
        assert (bundle.kind, list(bundle.extents), bytes(bundle.payload)) == (Kind.DATA, ranges, payload)
        assert to.place(body) is Place.SEEN
        assert (to.sequence, to.offset, to.chain) == (by.sequence, by.offset, by.chain)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    body = bytearray(sealer().seal(encode(Kind.DATA, [Extent(0, GRAIN)], bytes(range(256)) * 256)))
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    body[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BootpointError, match="bundle_rejected"):
        opener().open(bytes(body))


def test_every_bit_of_the_header_and_the_nonce_counts() -> None:
    body = sealer().seal(encode(Kind.DATA, [Extent(0, GRAIN, zero=True)], b""))
    for bit in range(frame.PREFIX_BYTES * 8):
        altered = bytearray(body)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BootpointError, match="bundle_rejected"):
            opener().open(bytes(altered))


def test_dense_data_is_stored_and_the_rest_compressed() -> None:
    dense = sealer().seal(encode(Kind.DATA, [Extent(0, GRAIN)], noise(GRAIN)))
    sparse = sealer().seal(encode(Kind.DATA, [Extent(0, GRAIN)], bytes(GRAIN)))
    assert GRAIN < len(dense) < GRAIN + 256
    assert len(sparse) < 256
    assert bytes(opener().open(dense).payload) == noise(GRAIN)


def noise(size: int) -> bytes:
    """Bytes that don't shrink."""
    return Random(1).randbytes(size)


def test_a_map_and_the_seal_end_a_stream() -> None:
    by, to = sealer(), opener()
    to.open(by.seal(encode(Kind.DATA, [Extent(0, GRAIN)], b"\x01" * GRAIN)))
    segments = [(0, b"\x07" * 32)]
    assert decode_segments(to.open(by.seal(encode(Kind.MAP, (), encode_segments(segments)))).payload) == segments
    seal = seal_of(by.chain)
    bundle = to.open(by.seal(encode_seal(seal)))
    assert decode_seal(bundle.payload) == seal
    assert to.sealed
    refused(Reject.SEALED, by.seal(encode_seal(seal)), to)


def test_an_opener_goes_on_from_what_was_recorded() -> None:
    by, first = sealer(), opener()
    bodies = [by.seal(encode(Kind.DATA, [Extent(GRAIN * number, GRAIN)], bytes(GRAIN))) for number in range(4)]
    for body in bodies[:2]:
        first.open(body)
    second = Opener(
        {KEY.key_id: KEY.secret}, POINT, DISK, SIZE, sequence=first.sequence, offset=first.offset, chain=first.chain
    )
    assert second.place(bodies[1]) is Place.SEEN
    assert second.place(bodies[3]) is Place.AHEAD
    for body in bodies[2:]:
        second.open(body)
    assert second.chain == by.chain


ZEROS = encode(Kind.DATA, [Extent(0, GRAIN, zero=True)], b"")


def test_another_version_key_direction_point_or_disk_is_refused() -> None:
    body = sealer().seal(ZEROS)
    refused(Reject.VERSION, b"\x02" + body[1:])
    refused(Reject.DIRECTION, body[:1] + b"\x02" + body[2:])
    refused(Reject.KEY, sealer(AgentKey(8, KEY.secret)).seal(ZEROS))
    refused(Reject.ALTERED, sealer(AgentKey(7, bytes(32))).seal(ZEROS))
    refused(Reject.POINT, Sealer(KEY, DISK, DISK).seal(ZEROS))
    refused(Reject.POINT, Sealer(KEY, POINT, POINT).seal(ZEROS))


def test_a_cut_or_oversized_bundle_is_refused() -> None:
    body = sealer().seal(ZEROS)
    refused(Reject.TRUNCATED, b"")
    refused(Reject.TRUNCATED, body[:40])
    refused(Reject.ALTERED, body[:-1])
    refused(Reject.ALTERED, body + b"\0")
    refused(Reject.OVERSIZED, body + bytes(MAX_BODY))


def test_a_repeated_or_skipped_bundle_is_refused() -> None:
    by, to = sealer(), opener()
    bodies = [by.seal(ZEROS) for _ in range(3)]
    to.open(bodies[0])
    refused(Reject.SEQUENCE, bodies[0], to)
    refused(Reject.SEQUENCE, bodies[2], to)
    stranger = sealer()
    stranger.sequence, stranger.offset = to.sequence, to.offset + 1
    refused(Reject.OFFSET, stranger.seal(ZEROS), to)
    to.open(bodies[1])


def raw(kind: int, codec: int, count: int, size: int, rest: bytes, *, zero: int = 0) -> bytes:
    """Seal content that `encode` would refuse to make."""
    return sealer().seal(frame.INNER.pack(kind, codec, zero, count, size) + rest)


def test_what_makes_no_sense_is_refused() -> None:
    one = frame.EXTENT.pack(0, GRAIN)
    refused(Reject.MALFORMED, raw(9, 0, 0, 0, b""))
    refused(Reject.MALFORMED, raw(Kind.DATA, 7, 1, GRAIN, one + bytes(GRAIN)))
    refused(Reject.MALFORMED, raw(Kind.DATA, 0, 5, 0, b""))
    refused(Reject.MALFORMED, raw(Kind.DATA, 0, MAX_EXTENTS + 1, 0, bytes(16 * (MAX_EXTENTS + 1))))
    refused(Reject.MALFORMED, raw(Kind.DATA, 0, 1, GRAIN, one + bytes(GRAIN), zero=1))
    refused(Reject.MALFORMED, raw(Kind.MAP, 0, 1, 0, one))
    refused(Reject.MALFORMED, raw(Kind.MAP, 0, 0, 35, bytes(35)))
    refused(Reject.MALFORMED, raw(Kind.MAP, 0, 0, 72, bytes(72)))
    refused(Reject.MALFORMED, raw(Kind.SEAL, 0, 0, 2, b"{}"))
    refused(Reject.MALFORMED, raw(Kind.SEAL, 0, 0, 3, b"\xff\xfe\0"))
    refused(Reject.MALFORMED, raw(Kind.SEAL, 0, 0, 12, b'{"root":"\xfa"}'[:12]))
    refused(Reject.EXTENT, raw(Kind.MAP, 0, 0, 36, struct.pack(">I32x", 1)))
    refused(Reject.CHAIN, sealer().seal(encode_seal(seal_of(bytes(32)))))


def test_a_payload_never_inflates_beyond_what_is_allowed() -> None:
    one = frame.EXTENT.pack(0, GRAIN)
    bomb = zstandard.compress(bytes(256 * MAX_RAW))
    small = zstandard.compress(bytes(GRAIN))
    nameless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(GRAIN))
    # The frame says GRAIN bytes and its blocks hold more: the content size lies right after the descriptor.
    liar = bytearray(zstandard.compress(bytes(GRAIN + 256)))
    size_at = 5
    liar[size_at : size_at + 2] = (GRAIN - 256).to_bytes(3, "little")[:2]
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, 256 * MAX_RAW, one + bomb))
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, GRAIN, one + bomb))
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, GRAIN, one + nameless))
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, GRAIN, one + bytes(liar)))
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, GRAIN, one + small + small))
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, GRAIN, one + small[:-1]))
    refused(Reject.INFLATE, raw(Kind.DATA, 1, 1, GRAIN, one + b"no frame"))
    refused(Reject.INFLATE, raw(Kind.DATA, 0, 1, GRAIN, one + bytes(GRAIN - 1)))


@pytest.mark.parametrize(
    "ranges",
    [
        [(512, GRAIN)],  # not aligned
        [(0, GRAIN - 512)],  # a part of a grain that isn't the last
        [(GRAIN, GRAIN), (0, GRAIN)],  # not ascending
        [(0, 2 * GRAIN), (GRAIN, GRAIN)],  # overlapping
        [(0, GRAIN), (0, GRAIN)],  # twice
        [(10 * GRAIN, GRAIN)],  # over the end
        [(11 * GRAIN, GRAIN)],  # beyond the end
        [(0, 0)],  # empty
        [(1 << 63, GRAIN)],
        [(0, (1 << 63) - 1)],
    ],
)
def test_extents_out_of_place_are_refused(ranges: list[tuple[int, int]]) -> None:
    table = b"".join(frame.EXTENT.pack(offset, length | frame.ZERO) for offset, length in ranges)
    refused(Reject.EXTENT, raw(Kind.DATA, 0, len(ranges), 0, table))


def test_payload_and_extents_must_agree() -> None:
    refused(Reject.SIZE, raw(Kind.DATA, 0, 1, 512, frame.EXTENT.pack(0, GRAIN) + bytes(512)))
    refused(Reject.SIZE, raw(Kind.DATA, 0, 1, 512, frame.EXTENT.pack(0, GRAIN | frame.ZERO) + bytes(512)))
    refused(Reject.SIZE, raw(Kind.DATA, 0, 0, 0, b""))


def test_more_than_a_bundle_holds_is_refused_by_the_maker() -> None:
    with pytest.raises(ValueError, match="too much"):
        encode(Kind.DATA, [Extent(0, MAX_RAW + GRAIN)], bytes(MAX_RAW + GRAIN))
    with pytest.raises(ValueError, match="too much"):
        encode(Kind.DATA, [Extent(n * GRAIN, GRAIN, zero=True) for n in range(MAX_EXTENTS + 1)], b"")
    with pytest.raises(ValueError, match="as long as"):
        encode(Kind.DATA, [Extent(0, GRAIN)], bytes(512))


def test_the_largest_bundle_fits() -> None:
    size = 1 << 40
    many = [Extent(n * GRAIN, GRAIN, zero=True) for n in range(MAX_EXTENTS - 1)]
    body = sealer().seal(encode(Kind.DATA, [*many, Extent(MAX_EXTENTS * GRAIN, MAX_RAW)], noise(MAX_RAW)))
    assert len(body) == MAX_BODY
    assert Opener({7: KEY.secret}, POINT, DISK, size).open(body).extents[-1].length == MAX_RAW


@pytest.mark.parametrize("vector", GOLDEN["bundles"], ids=lambda vector: vector["name"])
def test_golden_vectors_open(vector: dict[str, object]) -> None:
    by = golden_opener(vector)
    bundle = by.open(bytes.fromhex(str(vector["body"])))
    assert bundle.kind == vector["kind"]
    assert [[e.offset, e.length, e.zero] for e in bundle.extents] == vector["extents"]
    assert bytes(bundle.payload).hex() == vector["payload"]
    assert by.chain.hex() == vector["chain"]


@pytest.mark.parametrize("vector", GOLDEN["bundles"], ids=lambda vector: vector["name"])
def test_golden_vectors_are_what_is_made(vector: dict[str, object]) -> None:
    """The inner bytes come from the vector, because zstd may pack the same bytes otherwise in another version."""
    start = golden_opener(vector)
    by = Sealer(
        AgentKey(GOLDEN["key_id"], bytes.fromhex(GOLDEN["secret"])),
        UUID(GOLDEN["point_id"]),
        UUID(GOLDEN["point_disk_id"]),
        random=lambda size: bytes.fromhex(str(vector["nonce"]))[:size],
    )
    by.sequence, by.offset, by.chain = start.sequence, start.offset, start.chain
    assert by.seal(bytes.fromhex(str(vector["inner"]))).hex() == vector["body"]
    assert by.chain.hex() == vector["chain"]


def golden_opener(vector: dict[str, object]) -> Opener:
    return Opener(
        {GOLDEN["key_id"]: bytes.fromhex(GOLDEN["secret"])},
        UUID(GOLDEN["point_id"]),
        UUID(GOLDEN["point_disk_id"]),
        GOLDEN["size_bytes"],
        sequence=int(str(vector["sequence"])),
        offset=int(str(vector["offset"])),
        chain=bytes.fromhex(str(vector["chain_before"])),
    )
