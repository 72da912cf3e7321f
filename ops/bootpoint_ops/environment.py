"""What commands and processes of the control plane work with, opened at the edge: database, key, who asks."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bootpoint_common.config import Config
from bootpoint_common.crypto import Vault, WrongInstallationKeyError, load_or_create_installation_key
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store.database import Database
from bootpoint_ops import embedded


@dataclass(kw_only=True)
class Environment:
    """An open installation.

    Attributes:
        config: The settings.
        database: The truth.
        actor: Who asks, as the history names them.
    """

    config: Config
    database: Database
    actor: str

    @cached_property
    def vault(self) -> Vault:
        """The installation's key.

        Raises:
            UsageError: ``spec_invalid``: this machine doesn't have it.
        """
        return open_vault(self.config.installation_key)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()


def open_environment(config: Config, *, origin: str = "") -> Environment:
    """Open the installation that the settings name; with the embedded database, `up` must be running.

    Args:
        config: The settings.
        origin: From where the events come, as the history says it.

    Raises:
        RetryableError: ``no_scheduler``: there is no database.
    """
    database = Database(database_url(config), size=4, timeout=15.0, origin=origin)
    return Environment(config=config, database=database, actor=whoami())


def database_url(config: Config) -> str:
    """Return the URL of the database.

    Raises:
        RetryableError: ``no_scheduler``: none is named, and no `up` runs.
    """
    url = config.database_url or embedded.running_url(config.state_directory)
    if url is None:
        raise error(
            Code.NO_SCHEDULER,
            f"`bootpoint up` does not run over {config.state_directory}, and BOOTPOINT_DATABASE_URL names no database",
            key="BOOTPOINT_STATE",
            value=str(config.state_directory),
            hint="start `bootpoint up`, or set BOOTPOINT_DATABASE_URL",
        )
    return url


def open_vault(path: Path, *, create: bool = False) -> Vault:
    """Read the installation's key; with ``create``, make it where it is missing.

    Raises:
        UsageError: ``spec_invalid``: it is missing, or the file holds something else.
    """
    # Made in silence on a second machine, a new key could read nothing that the first one saved.
    if not create and not path.exists():
        raise _no_key(path, f"the installation's key {path} is missing on this machine")
    try:
        return Vault(load_or_create_installation_key(path))
    except (OSError, WrongInstallationKeyError) as exc:
        raise _no_key(path, str(exc)) from exc


def _no_key(path: Path, text: str) -> BootpointError:
    return error(
        Code.SPEC_INVALID,
        text,
        key="BOOTPOINT_INSTALLATION_KEY",
        value=str(path),
        hint="copy it from the machine that made it; for a new installation `bootpoint db migrate` makes it",
    )


def whoami() -> str:
    """Return who runs this process, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
