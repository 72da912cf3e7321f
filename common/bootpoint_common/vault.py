"""What the installation saves in encrypted form, and the key that it is saved under.

A saved secret is ``version (1) ‖ nonce (12) ‖ ciphertext and tag (16)``, under a subkey of its purpose.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bootpoint_common.cipher import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Random, hkdf
from bootpoint_common.durable import sync_folder

#: Version of the format.
VERSION = 1


class WrongInstallationKeyError(ValueError):
    """What was saved can't be decrypted: another installation key, another purpose, or altered."""


class Vault:
    """Encrypts what the installation stores: host credentials, agent keys.

    Args:
        installation_key: 32 bytes, from `load_or_create_installation_key`.
    """

    def __init__(self, installation_key: bytes) -> None:
        if len(installation_key) != KEY_BYTES:
            raise ValueError("an installation key has 32 bytes")
        self._key = installation_key

    def encrypt(self, purpose: str, data: bytes, *, random: Random = os.urandom) -> bytes:
        """Encrypt for one purpose (``host/kvm1/ssh_key``); only the same purpose decrypts it."""
        nonce = random(NONCE_BYTES)
        return bytes((VERSION,)) + nonce + self._cipher(purpose).encrypt(nonce, data, None)

    def decrypt(self, purpose: str, data: bytes) -> bytes:
        """Decrypt what `encrypt` made for this purpose.

        Raises:
            WrongInstallationKeyError: It can't be.
        """
        if len(data) < 1 + NONCE_BYTES + TAG_BYTES or data[0] != VERSION:
            raise WrongInstallationKeyError(f"the saved secret {purpose!r} is damaged")
        try:
            return self._cipher(purpose).decrypt(data[1 : 1 + NONCE_BYTES], data[1 + NONCE_BYTES :], None)
        except InvalidTag:
            raise WrongInstallationKeyError(
                f"the saved secret {purpose!r} doesn't open: it was saved under another installation key"
            ) from None

    def _cipher(self, purpose: str) -> AESGCM:
        return AESGCM(hkdf(self._key, b"vault" + purpose.encode()))


def load_or_create_installation_key(path: Path, *, is_credential: bool = False) -> bytes:
    """Read the installation's key; make it at the first call.

    The file holds 64 hex digits and belongs to its owner alone. Two processes that call at once get the
    same key.

    Args:
        path: The key file; its directory exists.
        is_credential: Whether systemd made it, for this process alone: where that isn't root's the file has an access
            list, whose mask shows as rights of its group.

    Returns:
        32 bytes.

    Raises:
        WrongInstallationKeyError: The file holds something else, or others may read it.
    """
    if is_credential:
        return _read_key(path, forbidden=0o007)
    try:
        return _read_key(path)
    except FileNotFoundError:
        _create_key(path)
    return _read_key(path)


def _read_key(path: Path, *, forbidden: int = 0o077) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & forbidden:
            raise WrongInstallationKeyError(f"others may read the installation key: chmod 600 {path}")
        text = file.read()
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise WrongInstallationKeyError(f"{path} holds no installation key: 64 hex digits are expected")
    return key


def _create_key(path: Path) -> None:
    """Write a new key and make it visible whole; somebody else's, made meanwhile, stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # link fails where rename would replace the key that another process has just begun to use.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    sync_folder(path.parent)
