"""Logins of the broker for agents, and for those who say what happens to sources.

Where the settings name the broker's management API they are made and removed by it; else by a person, who is told the
commands. Either way each has a password of its own and reaches what belongs to it, and nothing else.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from bootpoint_common.config import Config
from bootpoint_common.errors import Code, error

if TYPE_CHECKING:
    from bootpoint_common.stream.rabbit import Permissions
    from bootpoint_ops.broker import Administration

#: Names that fit the broker's users, its routing keys, and regular expressions over both.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")

#: Random bytes of a password.
_PASSWORD_BYTES = 24


class Tag(StrEnum):
    """What marks a user of the broker as made by bootpoint; it gives no right."""

    AGENT = "bootpoint-agent"
    """The login of an agent, by its name."""
    SENDER = "bootpoint-event"
    """The login of somebody who says what happens to sources."""


@dataclass(frozen=True, slots=True)
class Login:
    """A login that was made.

    Attributes:
        url: AMQP URL with name and password.
        commands: What a person has to do at the broker before it works; none where the management API did it.
    """

    url: str = field(repr=False)
    commands: list[str] = field(repr=False)


class Logins:
    """Makes and removes logins.

    Args:
        config: The settings.
        purpose: Why a broker is needed, where none is named.
        hint: The way out then.

    Raises:
        UsageError: ``spec_invalid``: `BOOTPOINT_BROKER_URL` names no broker.
    """

    def __init__(self, config: Config, *, purpose: str, hint: str) -> None:
        if config.broker_url is None:
            raise error(Code.SPEC_INVALID, purpose, key="BOOTPOINT_BROKER_URL", hint=hint)
        self._parts = urlsplit(config.broker_url)
        self._vhost = unquote(self._parts.path.removeprefix("/")) or "/"
        self._administration = _administration(config, self._vhost)

    @property
    def by_hand(self) -> bool:
        """Whether a person has to do at the broker what is wanted here."""
        return self._administration is None

    def check(self, name: str, tag: Tag, rights: Permissions) -> None:
        """Require that a login of this name can be made; what can't be known is taken to be so.

        Raises:
            RetryableError: ``broker_unreachable``.
            FatalError: ``broker_refused``.
        """
        if name == unquote(self._parts.username or ""):
            raise error(
                Code.BROKER_REFUSED, f"{name} is the login of bootpoint's own processes", key="name", value=name,
                hint="choose another name",
            )  # fmt: skip
        if self._administration is not None:
            self._administration.check(name, tag, rights)

    def make(self, name: str, tag: Tag, rights: Permissions, *, known: bool) -> Login:
        """Make a login, or give the one there is a new password.

        Args:
            name: Its name, checked before.
            tag: What kind it is.
            rights: What it may do.
            known: Whether there should be one; decides what a person is told.

        Raises:
            RetryableError: ``broker_unreachable``.
            FatalError: ``broker_refused``.
        """
        # With our own login it could read and write everything.
        password, place = secrets.token_hex(_PASSWORD_BYTES), self._parts.netloc.rpartition("@")[2]
        url = urlunsplit(self._parts._replace(netloc=f"{quote(name)}:{password}@{place}"))
        if self._administration is not None:
            self._administration.put(name, password, tag, rights)
            return Login(url, [])
        verb = "change_password" if known else "add_user"
        # On standard input: what stands on a command line is shown by `ps`.
        first = f"echo {password} | rabbitmqctl {verb} {name}"
        return Login(url, [first, *rights.commands(self._vhost, name)])

    def remove(self, name: str, tag: Tag, rights: Permissions) -> list[str]:
        """Remove a login and end its connections; nothing where there is none.

        Returns:
            What a person has to do for it; none where the management API did it.

        Raises:
            RetryableError: ``broker_unreachable``.
            FatalError: ``broker_refused``: the API can't be used, or the user of that name is somebody else's.
        """
        if self._administration is None:
            return [f"rabbitmqctl delete_user {name}"]
        if self._administration.check(name, tag, rights):
            self._administration.remove(name)
        return []


def _administration(config: Config, vhost: str) -> Administration | None:
    if config.broker_admin_url is None:
        return None
    # Most commands need neither TLS nor HTTP, and start sooner without them.
    from bootpoint_ops.broker import Administration

    return Administration(config.broker_admin_url, vhost, authorities=config.broker_admin_authorities)


def check_name(name: str, what: str) -> None:
    """Require a name that the broker's users, keys and permissions can bear.

    Raises:
        UsageError: ``spec_invalid``.
    """
    if _NAME.fullmatch(name) is None:
        hint = "use letters, digits, _ and -, at most 63, with a letter or a digit first"
        raise error(Code.SPEC_INVALID, f"{name!r} is no name of {what}", key="name", value=name, hint=hint)
