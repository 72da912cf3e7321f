"""The public door to all that is encrypted; the parts live in cipher, envelope, vault and enrolment."""

from __future__ import annotations

from bootpoint_common.cipher import AgentKey, Direction, Reject, reject, subkey
from bootpoint_common.enrolment import Token
from bootpoint_common.envelope import (
    JOIN_KEY_ID,
    MAX_ENVELOPE,
    Envelope,
    KeyLookup,
    envelope_agent,
    open_envelope,
    open_join,
    seal_envelope,
    seal_join,
)
from bootpoint_common.vault import Vault, WrongInstallationKeyError, load_or_create_installation_key

__all__ = [
    "JOIN_KEY_ID",
    "MAX_ENVELOPE",
    "AgentKey",
    "Direction",
    "Envelope",
    "KeyLookup",
    "Reject",
    "Token",
    "Vault",
    "WrongInstallationKeyError",
    "envelope_agent",
    "load_or_create_installation_key",
    "open_envelope",
    "open_join",
    "reject",
    "seal_envelope",
    "seal_join",
    "subkey",
]
