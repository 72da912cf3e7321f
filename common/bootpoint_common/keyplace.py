"""Where the installation's key is: in a variable, in a file, among systemd's credentials, or in the state directory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.cipher import KEY_BYTES
from bootpoint_common.job.table import BadValue
from bootpoint_common.job.value import absolute_path, text
from bootpoint_common.notice import Variables
from bootpoint_common.vault import Vault, load_or_create_installation_key

#: Name of the credential by which systemd hands the key to a process (`LoadCredential=`, `LoadCredentialEncrypted=`):
#: that of a file in $CREDENTIALS_DIRECTORY (systemd.exec(5), "Credentials").
CREDENTIAL = "bootpoint-installation-key"

#: Name of the file in the state directory.
_FILE = "installation.key"

#: The key as text.
_HEX = re.compile(rf"[0-9A-Fa-f]{{{2 * KEY_BYTES}}}")


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where the key is.

    Attributes:
        file: The file that holds it.
        text: The key itself, 64 hex digits, in place of any file; None: the file has it.
        is_credential: Whether systemd made the file, and keeps others away from it.
    """

    file: Path
    text: str | None = field(default=None, repr=False)
    is_credential: bool = False

    @classmethod
    def in_state(cls, state: Path) -> KeyPlace:
        """Return the place of a key that nothing was said about."""
        return cls(state / _FILE)

    @property
    def is_given(self) -> bool:
        """Whether somebody else keeps it, and no command makes one."""
        return self.text is not None or self.is_credential

    def __str__(self) -> str:
        return "BOOTPOINT_INSTALLATION_KEY_HEX" if self.text is not None else str(self.file)

    def open(self) -> Vault:
        """Read the key, or make it where a file of our own is missing.

        Raises:
            OSError: The file can't be read or made.
            WrongInstallationKeyError: It holds something else, or others may read it.
        """
        if self.text is not None:
            return Vault(bytes.fromhex(self.text))
        return Vault(load_or_create_installation_key(self.file, is_credential=self.is_credential))


def read_key_place(variables: Variables, state: Path) -> KeyPlace:
    """Find out where the key is; the first that is there counts.

    1. `BOOTPOINT_INSTALLATION_KEY_HEX`, the key itself; with 2 beside it an error, for they could differ;
    2. `BOOTPOINT_INSTALLATION_KEY`, a file's path;
    3. the credential `bootpoint-installation-key` that systemd gave this process;
    4. ``installation.key`` in the state directory.

    Args:
        variables: The environment; what is wrong is noted there.
        state: The state directory.
    """
    itself = variables.take("BOOTPOINT_INSTALLATION_KEY_HEX", _hex, None)
    named = variables.take("BOOTPOINT_INSTALLATION_KEY", _path, None)
    credentials = variables.take("CREDENTIALS_DIRECTORY", _path, None)
    if itself is not None and named is not None:
        problem = BadValue("is set, and BOOTPOINT_INSTALLATION_KEY names a file", hint="set one of the two")
        variables.problem("BOOTPOINT_INSTALLATION_KEY_HEX", problem)
    if itself is not None or named is not None:
        return KeyPlace(named or state / _FILE, itself)
    if credentials is not None and (credentials / CREDENTIAL).exists():
        return KeyPlace(credentials / CREDENTIAL, is_credential=True)
    return KeyPlace.in_state(state)


def _path(value: object) -> Path | None:
    return Path(absolute_path(value))


def _hex(value: object) -> str | None:
    found = text(value).strip()
    if _HEX.fullmatch(found) is None:
        hint = "a file is named by BOOTPOINT_INSTALLATION_KEY"
        raise BadValue(f"must be {2 * KEY_BYTES} hex digits", hint=hint, hide=True)
    return found
