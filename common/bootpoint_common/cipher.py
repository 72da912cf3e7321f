"""Keys, subkeys, directions, and the reasons for which a message is refused.

Everything is encrypted with AES-256-GCM and 12 random bytes of nonce (NIST SP 800-38D) under a subkey made by
HKDF-SHA256 (RFC 5869) for one purpose, so that what was made for one place opens nowhere else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bootpoint_common.errors import Code, error

#: Bytes of every key and join secret.
KEY_BYTES = 32

#: Bytes of a nonce and of a tag of AES-GCM.
NONCE_BYTES, TAG_BYTES = 12, 16

#: Makes nonces; tests and golden vectors pass their own.
Random = Callable[[int], bytes]


class Direction(enum.IntEnum):
    """Who is to open it; part of every subkey, so nothing can be sent back to where it came from."""

    TO_WORKER = 1
    TO_AGENT = 2


class Reject(enum.StrEnum):
    """Why a bundle or an envelope was refused: ``value`` of the error, label of the metric, text of the history."""

    TRUNCATED = "truncated"  # shorter than its fixed parts
    OVERSIZED = "oversized"  # longer than any that is allowed
    VERSION = "version"  # made by another version
    DIRECTION = "direction"  # meant for the other side
    KEY = "key"  # key id unknown or revoked
    AGENT = "agent"  # its name malformed, or not that of the login that sent it; or it answers what it wasn't asked
    FLOOD = "flood"  # one of more than an agent may say
    POINT = "point"  # of another boot point or disk
    SEQUENCE = "sequence"  # not the next of its stream
    OFFSET = "offset"  # cumulative offset doesn't match
    ALTERED = "altered"  # the tag doesn't match: altered, cut, or sealed for another place
    MALFORMED = "malformed"  # opened, but makes no sense
    INFLATE = "inflate"  # the payload yields another size than it claims, or no valid frame
    EXTENT = "extent"  # extents not ascending, not aligned, or outside the disk
    SIZE = "size"  # payload and extents disagree
    CHAIN = "chain"  # the seal's chain differs from what was opened
    SEALED = "sealed"  # something after the seal


def reject(reason: Reject, message: str) -> NoReturn:
    """Refuse a bundle or envelope.

    Raises:
        FatalError: ``bundle_rejected`` with the reason as its ``value``.
    """
    raise error(Code.BUNDLE_REJECTED, message, value=reason)


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key that an agent shares with the installation.

    Attributes:
        key_id: Its number, from 1; a rotation adds one.
        secret: 32 bytes.
    """

    key_id: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.key_id < 1 << 32 or len(self.secret) != KEY_BYTES:
            raise ValueError("an agent key has an id from 1 and 32 bytes")


def subkey(secret: bytes, direction: Direction, info: bytes) -> bytes:
    """Derive the key of one purpose: HKDF-SHA256 without salt, info = direction (1 byte) ‖ ``info``.

    Returns:
        32 bytes.
    """
    return hkdf(secret, bytes((direction,)) + info)


def hkdf(secret: bytes, info: bytes) -> bytes:
    """Derive 32 bytes from a secret: HKDF-SHA256 without salt."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
