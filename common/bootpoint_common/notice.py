"""Settings of notices: the mail server, the sender, the hour of the digest. All of them come from the environment."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from email.utils import parseaddr
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from bootpoint_common.errors import Code
from bootpoint_common.job.address import mail_address
from bootpoint_common.job.table import BadValue, shown
from bootpoint_common.job.value import absolute_path, clock, clock_text, text, time_zone

T = TypeVar("T")

#: Minutes after midnight, and the zone, of the digest unless told otherwise: before most people's day begins.
_DIGEST_MINUTE, _DIGEST_ZONE = 7 * 60, "UTC"


class Security(enum.StrEnum):
    """How a mail server is spoken to; the scheme of its URL."""

    PLAIN = "smtp"  #: in the clear, for a server on this machine or in a network of its own
    STARTTLS = "smtp+starttls"  #: encrypted after the greeting, or not at all: it never falls back
    TLS = "smtps"  #: encrypted from the first byte


#: TCP port of each, as registered for it (RFC 5321, RFC 6409, RFC 8314).
_PORTS = {Security.PLAIN: 25, Security.STARTTLS: 587, Security.TLS: 465}


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where mail is handed in.

    Attributes:
        security: How it is spoken to.
        host: Name or address.
        port: TCP port.
        user: Who logs in; None for nobody.
    """

    security: Security
    host: str
    port: int
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """Who mail comes from: a name, which may be empty, and an address."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class DailyHour:
    """A time of every day.

    Attributes:
        minute: Minutes after midnight, 0 to 1439.
        zone: IANA time zone.
    """

    minute: int = _DIGEST_MINUTE
    zone: str = _DIGEST_ZONE

    def __str__(self) -> str:
        return f"{clock_text(self.minute)} {self.zone}"

    def reached(self, at: datetime) -> tuple[date, datetime] | None:
        """Say which day's time has come at an instant.

        Clocks decide, as they hang on the wall: where they are put forward past the time it comes at that moment, and
        where they are put back it may come twice on the same day, which the day tells apart.

        Args:
            at: Any aware instant.

        Returns:
            The day there, and the instant of its time; None before it.
        """
        zone = ZoneInfo(self.zone)
        local = at.astimezone(zone)
        due = datetime.combine(local.date(), time()) + timedelta(minutes=self.minute)
        if local.replace(tzinfo=None) < due:
            return None
        return local.date(), due.replace(tzinfo=zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSettings:
    """What a process needs to tell people.

    Attributes:
        mail: The mail server (`BOOTPOINT_MAIL`); None: this process sends no mail.
        sender: Who it comes from (`BOOTPOINT_MAIL_FROM`); set wherever ``mail`` is.
        password_file: What logs in (`BOOTPOINT_MAIL_PASSWORD_FILE`), read at each session; set wherever a user is.
        templates: Directory with texts in place of bootpoint's own (`BOOTPOINT_MAIL_TEMPLATES`).
        authorities: Certificates that are trusted beside the system's, for mail and webhooks (`BOOTPOINT_NOTICE_CA`).
        digest: When the digest is sent (`BOOTPOINT_DIGEST`); None for never.
    """

    mail: MailServer | None = None
    sender: Sender | None = None
    password_file: Path | None = None
    templates: Path | None = None
    authorities: Path | None = None
    digest: DailyHour | None = DailyHour()


class Variables(Protocol):
    """The environment, as `config` reads it."""

    def take(self, name: str, read: Callable[[object], T], default: T) -> T:
        """Read a variable; a problem is noted and answered with the default."""

    def problem(self, name: str, problem: BadValue) -> None:
        """Note a problem with a variable."""


def read_notices(variables: Variables) -> NoticeSettings:
    """Take the settings of notices out of an environment; what is wrong is noted there."""
    found = NoticeSettings(
        mail=variables.take("BOOTPOINT_MAIL", _server, None),
        sender=variables.take("BOOTPOINT_MAIL_FROM", _sender, None),
        password_file=variables.take("BOOTPOINT_MAIL_PASSWORD_FILE", _path, None),
        templates=variables.take("BOOTPOINT_MAIL_TEMPLATES", _path, None),
        authorities=variables.take("BOOTPOINT_NOTICE_CA", _path, None),
        digest=variables.take("BOOTPOINT_DIGEST", _digest, NoticeSettings().digest),
    )
    if found.mail is None:
        return found
    if found.sender is None:
        missing = BadValue("is missing beside BOOTPOINT_MAIL", hint='set it, as in "bootpoint <bootpoint@example.org>"')
        variables.problem("BOOTPOINT_MAIL_FROM", missing)
    if found.mail.user is not None and found.password_file is None:
        variables.problem(
            "BOOTPOINT_MAIL_PASSWORD_FILE",
            BadValue("is missing, though BOOTPOINT_MAIL names a user", hint="name a file with the password"),
        )
    return found


def _server(value: object) -> MailServer | None:
    found = text(value)
    parts = urlsplit(found)
    more = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in set(Security) or not parts.hostname or more:
        raise BadValue(
            "must be smtp+starttls://HOST, smtps://HOST or smtp://HOST, with USER@ before HOST where somebody logs in",
            hide=True,
        )
    if parts.password is not None:
        raise BadValue(
            "holds a password", hint="put it into a file, and name that with BOOTPOINT_MAIL_PASSWORD_FILE",
            code=Code.SECRET_IN_SPEC, hide=True,
        )  # fmt: skip
    security = Security(parts.scheme)
    user = unquote(parts.username) if parts.username else None
    if user is not None and security is Security.PLAIN and not _is_here(parts.hostname):
        raise BadValue(
            f"would send the password of {shown(user)!r} in the clear", hint="write smtp+starttls:// or smtps://"
        )
    return MailServer(security=security, host=parts.hostname, port=parts.port or _PORTS[security], user=user)


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine, by a name or an address that can't be anything else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sender(value: object) -> Sender | None:
    name, address = parseaddr(text(value))
    return Sender(name, mail_address(address))


def _path(value: object) -> Path | None:
    return Path(absolute_path(value))


def _digest(value: object) -> DailyHour | None:
    found = text(value)
    if found == "off":
        return None
    hour, _, zone = found.partition(" ")
    try:
        minute = clock(hour)
        if minute == 24 * 60:
            raise BadValue("the day's last minute is 23:59")
        return DailyHour(minute, time_zone(zone or _DIGEST_ZONE))
    except BadValue as problem:
        raise BadValue(f'{problem}; write a time and a zone, such as "07:00 Europe/Rome", or "off"') from problem
