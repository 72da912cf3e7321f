"""What commands and processes of the control plane work with, opened at the edge: database, key, who asks."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from functools import cached_property

import psycopg

from bootpoint_common.config import Config
from bootpoint_common.crypto import Vault, WrongInstallationKeyError
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.keyplace import KeyPlace
from bootpoint_common.store.database import Database
from bootpoint_common.store.secure import refusal, secured
from bootpoint_ops import embedded

#: Seconds that a server may take when it is tried before the first use.
_TRIAL_SECONDS = 10


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
        FatalError: ``tls_refused``, as `reached` does.
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
    return reached(config, url)


def reached(config: Config, url: str) -> str:
    """Return the URL with all that TLS needs, where the settings ask for TLS; the server is tried first.

    Raises:
        FatalError: ``tls_refused``: the certificates can't be used, here or there. A server that is away is none of it.
    """
    if config.database_tls is None or config.database_url is None:
        return url
    safe = secured(url, config.database_tls)
    try:
        psycopg.connect(safe, connect_timeout=_TRIAL_SECONDS).close()
    except psycopg.OperationalError as exc:
        # libpq says that a verification failed, and keeps why to itself.
        if problem := refusal(url, config.database_tls):
            raise problem from exc
    return safe


def open_vault(place: KeyPlace, *, create: bool = False) -> Vault:
    """Read the installation's key; with ``create``, make it where it is missing and nobody else keeps it.

    Raises:
        UsageError: ``spec_invalid``: it is missing, or what is there is something else.
    """
    # Made in silence on a second machine, a new key could read nothing that the first one saved.
    if place.text is None and not create and not place.file.exists():
        raise _no_key(place, f"the installation's key {place} is missing on this machine")
    try:
        if create and not place.is_given:
            place.file.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        return place.open()
    except (OSError, WrongInstallationKeyError) as exc:
        raise _no_key(place, str(exc)) from exc


def _no_key(place: KeyPlace, text: str) -> BootpointError:
    return error(
        Code.SPEC_INVALID,
        text,
        key="BOOTPOINT_INSTALLATION_KEY",
        value=str(place),
        hint="copy it from the machine that made it; for a new installation `bootpoint db migrate` makes it",
    )


def whoami() -> str:
    """Return who runs this process, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
