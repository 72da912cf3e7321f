"""Readers of addresses in a job file: of network cards, of IP, of mail, and of the web."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from bootpoint_common.errors import Code
from bootpoint_common.job.secret import in_url
from bootpoint_common.job.table import BadValue, shown
from bootpoint_common.job.value import text
from bootpoint_common.near import did_you_mean

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")

#: A mail address as HTML's forms take it: https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address,
#: but for dots at the ends of the part before the @ or beside one another.
_MAIL = re.compile(
    r"(?!\.)(?!.*\.\.)(?!.*\.@)[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+"
    r"@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)


def mac(value: object) -> str:
    """Read ``new``, ``keep``, or a MAC address that one network card can have."""
    if value in ("new", "keep"):
        return str(value)
    found = value.lower().replace("-", ":") if isinstance(value, str) else ""
    if _MAC.fullmatch(found) is None:
        near = did_you_mean(value, ["new", "keep"])
        raise BadValue(f'{shown(value)!r} must be "new", "keep", or an address such as "52:54:00:00:00:21"{near}')
    if int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise BadValue(f"{found} is no card's address: the first byte must be even, and not all may be 0")
    return found


def ip_interface(value: object) -> str:
    """Read an address with its prefix length, such as ``"10.9.0.21/24"``."""
    found = text(value)
    if "/" not in found:
        raise BadValue(f'{found!r} lacks the prefix length; write it as in "10.9.0.21/24"')
    return str(ipaddress.ip_interface(found))


def ip_address(value: object) -> str:
    """Read an IPv4 or IPv6 address."""
    return str(ipaddress.ip_address(text(value)))


def mail_address(value: object) -> str:
    """Read one mail address, without a name before it."""
    found = text(value)
    if _MAIL.fullmatch(found) is None:
        raise BadValue(f'{shown(found)!r} is no mail address; write it as in "ops@example.org"')
    return found


def web_url(value: object) -> str:
    """Read an http or https URL without a secret in it."""
    found = text(value)
    if in_url(found):
        raise BadValue(
            "the URL holds a secret",
            hint="take it out of the URL, put it into a file, and name that with secret_file",
            code=Code.SECRET_IN_SPEC,
            hide=True,
        )
    try:
        parts = urlsplit(found)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in found
    except ValueError:  # brackets that hold no address, or a port that is no number
        valid = False
    if not valid:
        scheme = found.partition("://")[0]
        near = did_you_mean(scheme, ["http", "https"]) if scheme not in ("http", "https") else ""
        raise BadValue(
            f'{shown(found)!r} is no URL; write it as in "https://hooks.example.org/bp"{near}',
            hint="write http:// or https://, a host, and a path",
        )
    return found
