"""Encrypted control messages, between agents and the installation.

An envelope carries one control message. Numbers are big-endian::

    0        1          2         3    4         8                       8+n      20+n
    ┌────────┬──────────┬─────────┬────┬─────────┬───────────────────────┬────────┬──────────────────────────┐
    │version │direction │ n       │ 0  │ key id  │ agent name, n bytes   │ nonce  │ ciphertext and tag (16)  │
    └────────┴──────────┴─────────┴────┴─────────┴───────────────────────┴────────┴──────────────────────────┘
    └──────────── in clear, authenticated together with the routing key ──┘        └ incarnation (16) ‖
                                                                                     counter (8) ‖ body

The agent's name and the key's id are readable because the receiver looks the key up by them. Key id 0 marks a
join: it is encrypted under the secret of an enrolment token, because the agent has no key yet.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bootpoint_common.cipher import NONCE_BYTES, TAG_BYTES, AgentKey, Direction, Random, Reject, hkdf, reject, subkey

#: Version of the format.
VERSION = 1

#: Largest envelope that an agent may send, in bytes: an inventory of thousands of disks fits.
MAX_ENVELOPE = 1024 * 1024

#: The key id of a join; real keys count from 1.
JOIN_KEY_ID = 0

_HEAD = struct.Struct(">BBBBI")
_INNER = struct.Struct(">16sQ")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A control message that was opened.

    Attributes:
        agent: The agent it came from or goes to.
        key_id: The key that opened it.
        incarnation: The sender's start; a new one at each start of the agent.
        counter: Counts within the incarnation; what isn't greater than the last one is a replay.
        body: The message.
    """

    agent: str
    key_id: int
    incarnation: UUID
    counter: int
    body: bytes


#: Finds the secret of (agent, key id); None when there is none or it was revoked.
KeyLookup = Callable[[str, int], bytes | None]


def seal_envelope(  # noqa: PLR0917 - the order of the wire: key, direction, place, sender, body
    key: AgentKey,
    direction: Direction,
    routing_key: str,
    agent: str,
    incarnation: UUID,
    counter: int,
    body: bytes,
    *,
    random: Random = os.urandom,
) -> bytes:
    """Encrypt a control message for one direction and one routing key."""
    inner = _INNER.pack(incarnation.bytes, counter) + body
    cipher = AESGCM(subkey(key.secret, direction, b"control"))
    return _enclose(cipher, _head(direction, agent, key.key_id), routing_key, inner, random)


def envelope_agent(data: bytes) -> tuple[str, int]:
    """Read whose envelope it claims to be, before anything is proved.

    Returns:
        The agent's name and the key's id; `JOIN_KEY_ID` for a join.

    Raises:
        FatalError: ``bundle_rejected``.
    """
    agent, key_id, _, _ = _read_head(data)
    return agent, key_id


def open_envelope(
    keys: Mapping[int, bytes] | KeyLookup, direction: Direction, routing_key: str, data: bytes
) -> Envelope:
    """Decrypt and check a control message.

    Args:
        keys: Secrets by key id, or a function that finds one by agent and key id.
        direction: This side's direction.
        routing_key: The key it came under.
        data: The envelope.

    Raises:
        FatalError: ``bundle_rejected``; its ``value`` is the `Reject`.
    """
    agent, key_id, its_direction, size = _read_head(data)
    if its_direction != direction:
        reject(Reject.DIRECTION, "a control message was meant for the other side")
    secret = keys(agent, key_id) if callable(keys) else keys.get(key_id)
    if secret is None or key_id == JOIN_KEY_ID:
        reject(Reject.KEY, f"agent {agent!r} has no valid key {key_id}")
    inner = _disclose(AESGCM(subkey(secret, direction, b"control")), data, size, routing_key)
    if len(inner) < _INNER.size:
        reject(Reject.MALFORMED, "a control message is shorter than its incarnation and counter")
    incarnation, counter = _INNER.unpack_from(inner)
    return Envelope(agent, key_id, UUID(bytes=incarnation), counter, inner[_INNER.size :])


def seal_join(secret: bytes, agent: str, routing_key: str, body: bytes, *, random: Random = os.urandom) -> bytes:
    """Encrypt an agent's join (its own new key and the machine's identity) under a token's secret."""
    head = _head(Direction.TO_WORKER, agent, JOIN_KEY_ID)
    return _enclose(_join_cipher(secret, agent), head, routing_key, body, random)


def open_join(secret: bytes, routing_key: str, data: bytes) -> tuple[str, bytes]:
    """Decrypt a join.

    Returns:
        The agent's name and the body.

    Raises:
        FatalError: ``bundle_rejected``.
    """
    agent, key_id, direction, size = _read_head(data)
    if key_id != JOIN_KEY_ID or direction != Direction.TO_WORKER:
        reject(Reject.KEY, "a control message is no join")
    return agent, _disclose(_join_cipher(secret, agent), data, size, routing_key)


def _join_cipher(secret: bytes, agent: str) -> AESGCM:
    return AESGCM(hkdf(secret, b"join" + agent.encode()))


def _head(direction: Direction, agent: str, key_id: int) -> bytes:
    name = agent.encode()
    if not 0 < len(name) < 256:
        raise ValueError(f"{agent!r} is no agent's name: 1 to 255 bytes")
    return _HEAD.pack(VERSION, direction, len(name), 0, key_id) + name


def _read_head(data: bytes) -> tuple[str, int, int, int]:
    """Return agent, key id, direction and the head's size."""
    if len(data) > MAX_ENVELOPE and data[1] != Direction.TO_AGENT:
        reject(Reject.OVERSIZED, f"a control message has {len(data)} bytes, allowed are {MAX_ENVELOPE}")
    if len(data) < _HEAD.size:
        reject(Reject.TRUNCATED, "a control message is shorter than its head")
    version, direction, length, zero, key_id = _HEAD.unpack_from(data)
    if version != VERSION or zero != 0:
        reject(Reject.VERSION, f"a control message has version {version}, known is {VERSION}")
    size = _HEAD.size + length
    if len(data) < size + NONCE_BYTES + TAG_BYTES:
        reject(Reject.TRUNCATED, "a control message is shorter than its fixed parts")
    try:
        agent = data[_HEAD.size : size].decode()
    except UnicodeDecodeError:
        reject(Reject.AGENT, "a control message has an agent name that is no text")
    if not agent:
        reject(Reject.AGENT, "a control message names no agent")
    return agent, key_id, direction, size


def _enclose(cipher: AESGCM, head: bytes, routing_key: str, inner: bytes, random: Random) -> bytes:
    nonce = random(NONCE_BYTES)
    return b"".join((head, nonce, cipher.encrypt(nonce, inner, head + routing_key.encode())))


def _disclose(cipher: AESGCM, data: bytes, size: int, routing_key: str) -> bytes:
    view = memoryview(data)
    nonce, rest = view[size : size + NONCE_BYTES], view[size + NONCE_BYTES :]
    try:
        return cipher.decrypt(nonce, rest, data[:size] + routing_key.encode())
    except InvalidTag:
        reject(Reject.ALTERED, "a control message was altered, or made for another place or with another key")
