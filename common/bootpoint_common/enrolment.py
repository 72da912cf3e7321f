"""The token that joins a machine to the installation.

One line: ``bp1.`` and, in base64url, a JSON object followed by 4 bytes of its BLAKE3, which show a slip in
copying. The broker URL carries the agent's broker login, so the whole line is a secret; the join secret
works once and for 24 hours.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

import msgspec
from blake3 import blake3

from bootpoint_common.cipher import KEY_BYTES

_PREFIX = "bp1."
_CHECK_BYTES = 4


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    agent: str
    pool: str
    broker: str
    fingerprint: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """What an agent needs to join.

    Attributes:
        agent: The agent's name.
        pool: Its home pool: where hello, heartbeat and events go.
        broker_url: The broker with the agent's own login.
        fingerprint: The authority's fingerprint.
        secret: The join secret, 32 bytes.
    """

    agent: str
    pool: str
    broker_url: str = field(repr=False)
    fingerprint: str
    secret: bytes = field(repr=False)

    def encode(self) -> str:
        """Write the token as one line."""
        wire = _Wire(self.agent, self.pool, self.broker_url, self.fingerprint, self.secret)
        data = msgspec.json.encode(wire)
        return _PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Token:
        """Read a token.

        Raises:
            ValueError: It is none, or it was damaged in copying.
        """
        text = "".join(text.split())  # a terminal may have wrapped the line
        if not text.startswith(_PREFIX):
            raise ValueError(f"this is no enrolment token: it starts with {_PREFIX!r}")
        try:
            encoded = text.removeprefix(_PREFIX)
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            data, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
            wire = msgspec.json.decode(data, type=_Wire)
        except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError):
            raise ValueError("the enrolment token is damaged: copy the whole line") from None
        if check != _check(data) or len(wire.secret) != KEY_BYTES:
            raise ValueError("the enrolment token is damaged: copy the whole line")
        return cls(wire.agent, wire.pool, wire.broker, wire.fingerprint, wire.secret)


def _check(data: bytes) -> bytes:
    return blake3(data).digest(length=_CHECK_BYTES)
