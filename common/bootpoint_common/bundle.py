"""Bundles: made by the agent (`encode`, `Sealer`), checked and opened by the worker (`Opener`).

The format stands in `frame`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bootpoint_common.cipher import NONCE_BYTES, AgentKey, Direction, Random, Reject, reject, subkey
from bootpoint_common.digest import SEGMENT
from bootpoint_common.extent import Extent
from bootpoint_common.frame import (
    EXTENT,
    HEADER,
    INNER,
    MAX_BODY,
    MAX_EXTENTS,
    MAX_RAW,
    MAX_SEGMENTS,
    PREFIX_BYTES,
    VERSION,
    ZERO,
    Codec,
    Header,
    Kind,
    Seal,
    decode_seal,
    decode_segments,
    encode,
    encode_seal,
    encode_segments,
    first_chain,
    next_chain,
    peek,
)
from bootpoint_common.units import GRAIN

__all__ = [
    "MAX_BODY",
    "MAX_EXTENTS",
    "MAX_RAW",
    "MAX_SEGMENTS",
    "Bundle",
    "Header",
    "Kind",
    "Opener",
    "Place",
    "Seal",
    "Sealer",
    "decode_seal",
    "decode_segments",
    "encode",
    "encode_seal",
    "encode_segments",
    "peek",
]


class Sealer:
    """Numbers, chains and encrypts the bundles of one stream; used by one thread.

    Args:
        key: The agent's key.
        point_id: The boot point.
        point_disk_id: The stream.
        random: Makes nonces.

    Attributes:
        sequence: Number of the next bundle.
        offset: Encrypted bytes so far: after `seal`, the end offset of what it returned.
        chain: The chain over all bundles so far, 32 bytes.
    """

    def __init__(self, key: AgentKey, point_id: UUID, point_disk_id: UUID, *, random: Random = os.urandom) -> None:
        self.sequence = 0
        self.offset = 0
        self.chain = first_chain(point_id, point_disk_id)
        self._key_id = key.key_id
        self._ids = point_id.bytes, point_disk_id.bytes
        self._cipher = AESGCM(subkey(key.secret, Direction.TO_WORKER, point_disk_id.bytes))
        self._random = random

    def seal(self, encoded: bytes) -> bytes:
        """Encrypt what `encode` made as the next bundle of the stream."""
        header = HEADER.pack(VERSION, Direction.TO_WORKER, 0, self._key_id, *self._ids, self.sequence, self.offset)
        nonce = self._random(NONCE_BYTES)
        body = b"".join((header, nonce, self._cipher.encrypt(nonce, encoded, header)))
        self.chain = next_chain(self.chain, encoded)
        self.sequence += 1
        self.offset += len(body)
        return body


class Place(enum.Enum):
    """Where a bundle stands in its stream, seen from what was opened so far."""

    NEXT = enum.auto()  # open it
    SEEN = enum.auto()  # drop it: it came again
    AHEAD = enum.auto()  # drop it: something before it is missing and comes again


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check.

    Attributes:
        header: Its header.
        kind: What it carries.
        extents: The ranges of ``data``, ascending.
        payload: The bytes of the data extents, or of the map or seal.
    """

    header: Header
    kind: Kind
    extents: tuple[Extent, ...]
    payload: memoryview


class Opener:
    """Checks and decrypts the bundles of one stream in their order; used by one thread.

    It advances only when a bundle passed every check, so a refused bundle leaves no trace.

    Args:
        keys: Secrets of the agent's valid keys, by key id.
        point_id: The boot point.
        point_disk_id: The stream.
        size_bytes: Size of the disk.
        sequence: Number of the next bundle, as recorded with the watermark.
        offset: Encrypted bytes before it.
        chain: The chain before it; None at the stream's start.

    Attributes:
        sequence, offset, chain: The same after what was opened so far: what is recorded with the watermark.
        sealed: Whether the seal was opened; nothing comes after it.
    """

    def __init__(
        self,
        keys: Mapping[int, bytes],
        point_id: UUID,
        point_disk_id: UUID,
        size_bytes: int,
        *,
        sequence: int = 0,
        offset: int = 0,
        chain: bytes | None = None,
    ) -> None:
        self.sequence = sequence
        self.offset = offset
        self.chain = chain if chain is not None else first_chain(point_id, point_disk_id)
        self.sealed = False
        self._ids = point_id, point_disk_id
        self._size_bytes = size_bytes
        self._ciphers = {
            key_id: AESGCM(subkey(secret, Direction.TO_WORKER, point_disk_id.bytes)) for key_id, secret in keys.items()
        }
        self._decompressor = zstandard.ZstdDecompressor()

    def place(self, body: bytes) -> Place:
        """Tell where a bundle stands, by its header alone.

        Raises:
            FatalError: ``bundle_rejected``: it can't belong to this stream.
        """
        sequence = self._header(body).sequence
        if sequence == self.sequence:
            return Place.NEXT
        return Place.SEEN if sequence < self.sequence else Place.AHEAD

    def open(self, body: bytes) -> Bundle:
        """Check and decrypt the next bundle.

        Raises:
            FatalError: ``bundle_rejected``; its ``value`` is the `Reject`.
        """
        header = self._header(body)
        if self.sealed:
            reject(Reject.SEALED, f"bundle {header.sequence} came after the seal")
        if header.sequence != self.sequence:
            reject(Reject.SEQUENCE, f"bundle {header.sequence} came where {self.sequence} is next")
        if header.offset != self.offset:
            reject(Reject.OFFSET, f"bundle {header.sequence} starts at {header.offset}, not at {self.offset}")
        encoded = self._decrypt(header, body)
        kind, extents, payload = self._unpack(encoded)
        self._check(kind, extents, payload)
        self.chain = next_chain(self.chain, encoded)
        self.sequence += 1
        self.offset += len(body)
        self.sealed = kind is Kind.SEAL
        return Bundle(header, kind, extents, payload)

    def _header(self, body: bytes) -> Header:
        header = peek(body)
        if header.direction != Direction.TO_WORKER:
            reject(Reject.DIRECTION, "a bundle was meant for the other side")
        if (header.point_id, header.point_disk_id) != self._ids:
            reject(Reject.POINT, f"a bundle of disk {header.point_disk_id} came in the stream of {self._ids[1]}")
        if header.key_id not in self._ciphers:
            reject(Reject.KEY, f"the agent has no valid key {header.key_id}")
        return header

    def _decrypt(self, header: Header, body: bytes) -> bytes:
        view = memoryview(body)
        nonce, rest = view[HEADER.size : PREFIX_BYTES], view[PREFIX_BYTES:]
        try:
            return self._ciphers[header.key_id].decrypt(nonce, rest, view[: HEADER.size])
        except InvalidTag:
            reject(Reject.ALTERED, f"bundle {header.sequence} was altered, or made for another place")

    def _unpack(self, encoded: bytes) -> tuple[Kind, tuple[Extent, ...], memoryview]:
        kind, codec, zero, count, size = INNER.unpack_from(encoded)
        start = INNER.size + count * EXTENT.size
        if zero or count > MAX_EXTENTS or start > len(encoded):
            reject(Reject.MALFORMED, f"a bundle claims {count} extents")
        if size > MAX_RAW:
            reject(Reject.INFLATE, f"a bundle claims {size} bytes, allowed are {MAX_RAW}")
        table = EXTENT.iter_unpack(memoryview(encoded)[INNER.size : start])
        extents = tuple(Extent(offset, length & ~ZERO, bool(length & ZERO)) for offset, length in table)
        payload = self._inflate(codec, memoryview(encoded)[start:], size)
        try:
            return Kind(kind), extents, payload
        except ValueError:
            reject(Reject.MALFORMED, f"a bundle has the unknown kind {kind}")

    def _inflate(self, codec: int, packed: memoryview, size: int) -> memoryview:
        """Return the payload; never makes room for more than `MAX_RAW`."""
        if codec == Codec.STORED:
            if len(packed) != size:
                reject(Reject.INFLATE, f"a bundle claims {size} bytes and holds {len(packed)}")
            return packed
        if codec != Codec.ZSTD:
            reject(Reject.MALFORMED, f"a bundle has the unknown codec {codec}")
        try:
            # zstd makes room for what the frame claims, whatever limit it is given: so the claim comes first.
            claimed = zstandard.get_frame_parameters(packed).content_size
            if claimed != size:
                reject(Reject.INFLATE, f"a bundle claims {size} bytes, its frame {claimed}")
            payload = self._decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            reject(Reject.INFLATE, f"a bundle's payload doesn't inflate: {exc}")
        if len(payload) != size:
            reject(Reject.INFLATE, f"a bundle claims {size} bytes and yields {len(payload)}")
        return memoryview(payload)

    def _check(self, kind: Kind, extents: Sequence[Extent], payload: memoryview) -> None:
        if kind is Kind.DATA:
            self._check_extents(extents, len(payload))
        elif extents:
            reject(Reject.MALFORMED, f"a {kind.name.lower()} bundle names extents")
        elif kind is Kind.MAP:
            segments = decode_segments(payload)
            if segments and segments[-1][0] * SEGMENT >= self._size_bytes:
                reject(Reject.EXTENT, f"a map bundle names segment {segments[-1][0]}, beyond the disk")
        elif decode_seal(payload).chain != self.chain.hex():
            reject(Reject.CHAIN, "the seal's chain differs from that of the bundles that were opened")

    def _check_extents(self, extents: Sequence[Extent], size: int) -> None:
        end = data = 0
        for extent in extents:
            if not extent.length or extent.offset % GRAIN or extent.offset < end:
                _misplaced(extent)
            end = extent.end
            if end > self._size_bytes or (end % GRAIN and end != self._size_bytes):
                _misplaced(extent)
            if not extent.zero:
                data += extent.length
        if not extents or data != size:
            reject(Reject.SIZE, f"a bundle has {size} bytes for {data} bytes of data extents")


def _misplaced(extent: Extent) -> NoReturn:
    reject(
        Reject.EXTENT,
        f"the extent of {extent.length} bytes at {extent.offset} is out of order, not aligned, or outside the disk",
    )
