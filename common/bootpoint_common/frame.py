"""The format of bundles, in which changed blocks, map segments and the seal travel in a stream.

A bundle on the wire, numbers big-endian::

    0        1          2    4       8          24            40         48        56       68
    ┌────────┬──────────┬────┬───────┬──────────┬─────────────┬──────────┬─────────┬────────┬───────────────┐
    │version │direction │ 0  │key id │ point id │point-disk id│ sequence │ offset  │ nonce  │ciphertext, tag│
    └────────┴──────────┴────┴───────┴──────────┴─────────────┴──────────┴─────────┴────────┴───────────────┘
    └──────────────────────── in clear, authenticated ───────────────────────────┘

``sequence`` counts the bundles of a stream from 0. ``offset`` is the cumulative encrypted size of the bundles
before this one: a bundle of n bytes (header to tag) ends at offset + n, which is what credit is compared with.

What is encrypted, under HKDF(agent key, direction ‖ point-disk id)::

    0     1      2    4               8             12
    ┌─────┬──────┬────┬───────────────┬─────────────┬─────────────────────────────────────┬─────────────────┐
    │kind │codec │ 0  │extents: count │payload: size│count × (offset 8, zero bit ‖ length)│payload          │
    └─────┴──────┴────┴───────────────┴─────────────┴─────────────────────────────────────┴─────────────────┘
    kind   1 data   2 map   3 seal                          top bit of the second 8 bytes: reads as zero
    codec  0 as it is   1 one zstd frame that names its size

The payload of ``data`` is the bytes of the data extents, one after the other. That of ``map`` is
count × (segment index 4, digest 32), ascending. That of ``seal`` is a JSON object, `Seal`.

Both sides keep a chain over the encrypted part before encryption, start = BLAKE3(point id ‖ point-disk id),
next = BLAKE3 keyed with the chain so far: the seal carries the chain of everything before it.
"""

from __future__ import annotations

import enum
import itertools
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
import zstandard
from blake3 import blake3

from bootpoint_common.cipher import NONCE_BYTES, TAG_BYTES, Reject, reject
from bootpoint_common.extent import Extent
from bootpoint_common.units import MiB

#: Version of the format.
VERSION = 1

#: Largest payload before compression, in bytes. 1 MiB costs the broker half of what 64 KiB do for each byte,
#: and keeps memory small where several are in hand.
MAX_RAW = 1 * MiB

#: Most extents of one bundle: 64 KiB of table.
MAX_EXTENTS = 4096

#: zstd's level: 1 is the fastest that still halves typical disks.
LEVEL = 1

HEADER = struct.Struct(">BBHI16s16sQQ")
INNER = struct.Struct(">BBHII")
EXTENT = struct.Struct(">QQ")
ENTRY = struct.Struct(">I32s")
ZERO = 1 << 63

#: Bytes before the ciphertext, and of the smallest and largest bundle.
PREFIX_BYTES = HEADER.size + NONCE_BYTES
MIN_BODY = PREFIX_BYTES + INNER.size + TAG_BYTES
MAX_BODY = MIN_BODY + MAX_EXTENTS * EXTENT.size + MAX_RAW

#: Most entries of a ``map`` bundle.
MAX_SEGMENTS = MAX_RAW // ENTRY.size


class Kind(enum.IntEnum):
    """What a bundle carries."""

    DATA = 1  # extents of the disk and their bytes
    MAP = 2  # changed segment digests of the block map
    SEAL = 3  # the end of the stream


class Codec(enum.IntEnum):
    """How the payload is packed."""

    STORED = 0
    ZSTD = 1


class Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the last bundle of a disk's stream says.

    Attributes:
        root: The block map's root (``read_digest``), as 64 hex digits.
        chain: The chain over all bundles before the seal, as 64 hex digits.
        changed_bytes: Bytes of the grains that differ from the base.
        scanned_bytes: Bytes that were read and hashed.
        zero_bytes: Bytes of ``changed_bytes`` that travelled as zero extents.
        wire_bytes: Encrypted bytes of all bundles before the seal.
        tracker: The tracker that found the changes.
        fallback: Why another tracker was not used; None when the wanted one was.
        skipped: Ranges declared skipped, as (offset, length).
        consistency: What the snapshot turned out to be worth once the disk was read; None: as it was offered.
    """

    root: str
    chain: str
    changed_bytes: int
    scanned_bytes: int
    zero_bytes: int
    wire_bytes: int
    tracker: str
    fallback: str | None = None
    skipped: tuple[tuple[int, int], ...] = ()
    consistency: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What of a bundle is readable without a key.

    Attributes:
        version: Version of the format.
        key_id: The agent's key.
        direction: Who is to open it.
        point_id: The boot point.
        point_disk_id: The disk of the boot point: the stream.
        sequence: Its place in the stream, from 0.
        offset: Encrypted bytes of the stream before it.
    """

    version: int
    key_id: int
    direction: int
    point_id: UUID
    point_disk_id: UUID
    sequence: int
    offset: int


_local = threading.local()


def encode(kind: Kind, extents: Sequence[Extent], payload: bytes | memoryview) -> bytes:
    """Pack and compress one bundle's content; pure, so that several threads can share the work.

    Args:
        kind: What it is.
        extents: For ``data`` at most `MAX_EXTENTS`, ascending; else none.
        payload: The bytes of the data extents in their order, at most `MAX_RAW`.

    Returns:
        What `Sealer.seal` takes.

    Raises:
        ValueError: More than fits, or payload and extents disagree.
    """
    size = len(payload)
    if size > MAX_RAW or len(extents) > MAX_EXTENTS:
        raise ValueError(f"{size} bytes and {len(extents)} extents are too much for one bundle")
    if kind is Kind.DATA and size != sum(extent.length for extent in extents if not extent.zero):
        raise ValueError("the payload isn't as long as the data extents")
    codec, packed = _pack(payload)
    head = INNER.pack(kind, codec, 0, len(extents), size)
    table = [EXTENT.pack(extent.offset, extent.length | ZERO * extent.zero) for extent in extents]
    return b"".join((head, *table, packed))


def _pack(payload: bytes | memoryview) -> tuple[Codec, bytes | memoryview]:
    if not len(payload):
        return Codec.STORED, b""
    # A compressor isn't thread-safe, and making one for each bundle costs a tenth of the compression.
    compressor: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    packed = compressor.compress(payload)
    if len(packed) < len(payload):
        return Codec.ZSTD, packed
    return Codec.STORED, payload


def first_chain(point_id: UUID, point_disk_id: UUID) -> bytes:
    """Return the chain of a stream before its first bundle: 32 bytes."""
    return blake3(point_id.bytes + point_disk_id.bytes).digest()


def next_chain(chain: bytes, encoded: bytes) -> bytes:
    """Return the chain after one more bundle: 32 bytes."""
    return blake3(encoded, key=chain).digest()


def peek(body: bytes) -> Header:
    """Read a bundle's header, before anything is proved.

    Raises:
        FatalError: ``bundle_rejected`` for another version, or a size that no bundle has.
    """
    if len(body) < MIN_BODY:
        reject(Reject.TRUNCATED, f"a bundle of {len(body)} bytes is shorter than its fixed parts")
    if len(body) > MAX_BODY:
        reject(Reject.OVERSIZED, f"a bundle has {len(body)} bytes, allowed are {MAX_BODY}")
    version, direction, zero, key_id, point, disk, sequence, offset = HEADER.unpack_from(body)
    if version != VERSION or zero != 0:
        reject(Reject.VERSION, f"a bundle has version {version}, known is {VERSION}")
    return Header(version, key_id, direction, UUID(bytes=point), UUID(bytes=disk), sequence, offset)


def encode_segments(segments: Sequence[tuple[int, bytes]]) -> bytes:
    """Write the payload of a ``map`` bundle: at most `MAX_SEGMENTS` (segment index, 32-byte digest), ascending."""
    return b"".join(ENTRY.pack(index, digest) for index, digest in segments)


def decode_segments(payload: bytes | memoryview) -> list[tuple[int, bytes]]:
    """Read the payload of a ``map`` bundle.

    Raises:
        FatalError: ``bundle_rejected``: cut, or not ascending.
    """
    if len(payload) % ENTRY.size:
        reject(Reject.MALFORMED, "a map bundle is cut")
    segments: list[tuple[int, bytes]] = list(ENTRY.iter_unpack(payload))
    if any(a[0] >= b[0] for a, b in itertools.pairwise(segments)):
        reject(Reject.MALFORMED, "the segments of a map bundle are not ascending")
    return segments


def encode_seal(seal: Seal) -> bytes:
    """Pack a seal, ready for `Sealer.seal`."""
    return encode(Kind.SEAL, (), msgspec.json.encode(seal))


def decode_seal(payload: bytes | memoryview) -> Seal:
    """Read the payload of a ``seal`` bundle.

    Raises:
        FatalError: ``bundle_rejected``: it isn't one.
    """
    try:
        return msgspec.json.decode(payload, type=Seal)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        reject(Reject.MALFORMED, f"a seal makes no sense: {exc}")
