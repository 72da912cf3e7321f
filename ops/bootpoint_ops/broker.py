"""Users of the broker, by RabbitMQ's management API (https://www.rabbitmq.com/docs/management#http-api; 3.10 to 4.x).

A user is global at a broker: it may be somebody else's, or another installation's. So those that are made here carry a
tag, which gives no right, and no other user is ever changed or removed.
"""

from __future__ import annotations

import http.client
import json
import ssl
from base64 import b64encode
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.notice.trust import tls_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bootpoint_common.stream.rabbit import Permissions

#: Seconds that the API may take to be reached, and for each answer. Three of them fit into the time that a transaction
#: may sit idle (`store.database`).
TIMEOUT = 5.0

#: Most bytes of an answer that are read: what is asked for here has a few hundred.
_LONGEST = 1 << 20

#: Setting that names the API, as messages call it.
_SETTING = "BOOTPOINT_BROKER_ADMIN_URL_FILE"

#: What a caller without the right tag is told; the same status says that name or password are wrong.
_NO_ADMINISTRATOR = "administrator"


class Administration:
    """Makes and removes users of one virtual host.

    Args:
        url: ``https://USER:PASSWORD@HOST:15672``; the user has the tag ``administrator``.
        vhost: The virtual host that the installation talks through.
        authorities: File of certificates that are trusted beside the system's; None for those alone.
    """

    def __init__(self, url: str, vhost: str, *, authorities: Path | None = None) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (15671 if self._secure else 15672)
        self._path = parts.path.rstrip("/")
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._authorization = "Basic " + b64encode(login.encode()).decode()
        self._vhost = vhost
        self._authorities = authorities

    def check(self, user: str, tag: str, rights: Permissions) -> bool:
        """Require that a user is ours to change: there is none, or it was made for the same.

        Args:
            user: Its name.
            tag: What users of this kind are marked with.
            rights: What one of this kind and name may do; one that was made by hand is known by them.

        Returns:
            Whether there is one.

        Raises:
            RetryableError: ``broker_unreachable``.
            FatalError: ``broker_refused``: it is somebody else's, or the API refuses.
        """
        found = self._call("GET", "users", user)
        if found is None:
            return False
        granted = self._call("GET", "users", user, "permissions") or []
        wanted = {"configure": rights.configure, "write": rights.write, "read": rights.read}
        here = all(row["vhost"] == self._vhost for row in granted)
        by_hand = granted and all({name: row[name] for name in wanted} == wanted for row in granted)
        tags = found["tags"] if isinstance(found["tags"], list) else found["tags"].split(",")
        if here and (set(tags) == {tag} or (by_hand and not any(tags))):
            return True
        raise error(
            Code.BROKER_REFUSED,
            f"the broker has a user {user} that bootpoint did not make for this",
            key="name",
            value=user,
            hint=f"choose another name; or remove that user, if nobody needs it: rabbitmqctl delete_user {user}",
        )

    def put(self, user: str, password: str, tag: str, rights: Permissions) -> None:
        """Make a user, or give it a new password; rights come last, and the narrower ones first.

        Repeated after a failure it does what is missing; a user without rights can do nothing.

        Raises:
            RetryableError: ``broker_unreachable``.
            FatalError: ``broker_refused``.
        """
        self._call("PUT", "users", user, body={"password": password, "tags": tag})
        for limit, value in rights.limits.items():
            self._call("PUT", "user-limits", user, limit, body={"value": value})
        topic = {"exchange": rights.topic_exchange, "write": rights.topic_write, "read": rights.topic_read}
        self._call("PUT", "topic-permissions", self._vhost, user, body=topic)
        whole = {"configure": rights.configure, "write": rights.write, "read": rights.read}
        self._call("PUT", "permissions", self._vhost, user, body=whole)

    def remove(self, user: str) -> None:
        """Take a user's rights and the user, and end its connections; nothing where there is none.

        Raises:
            RetryableError: ``broker_unreachable``.
            FatalError: ``broker_refused``.
        """
        self._call("DELETE", "permissions", self._vhost, user)
        self._call("DELETE", "users", user)
        # The broker ends them with the user. One that was being opened meanwhile is met by this.
        try:
            self._call("DELETE", "connections", "username", user)
        except BootpointError:  # it answers 500 where one of them ends in this very moment
            self._call("DELETE", "connections", "username", user)

    def _call(self, method: str, *words: str, body: Mapping[str, object] | None = None) -> Any:
        """Return the answer; None where there is nothing of that name, or no content."""
        path = "/".join([self._path, "api", *(quote(word, safe="") for word in words)])
        try:
            status, text = self._send(method, path, None if body is None else json.dumps(body))
        except ssl.SSLError as exc:
            hint = "name a file with its authority's certificate by BOOTPOINT_BROKER_ADMIN_CA"
            raise self._refusal(f"its certificate can't be trusted: {exc}", hint) from exc
        except (OSError, http.client.HTTPException) as exc:
            cause = "no answer in time" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__
            raise self._problem(
                Code.BROKER_UNREACHABLE, f"does not answer: {cause}", f"check that it runs, and {_SETTING}; then repeat"
            ) from exc
        if status == HTTPStatus.NOT_FOUND and method != "PUT" and _says_not_found(text):
            return None
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._problem(Code.BROKER_UNREACHABLE, f"fails: {status} {_reason(text)}", "look at the broker's log")
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise self._refused(status, _reason(text))
        return _read(text) if method == "GET" else None

    def _send(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=self._context())
            if self._secure
            else http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        )
        try:
            headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_LONGEST)
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        return tls_context(self._authorities, key="BOOTPOINT_BROKER_ADMIN_CA")

    def _refused(self, status: int, reason: str) -> BootpointError:
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            if _NO_ADMINISTRATOR in reason:
                return self._refusal(
                    "its login may not make users", "give it the right: rabbitmqctl set_user_tags USER administrator"
                )
            return self._refusal("it refuses name or password", f"correct them in the file that {_SETTING} names")
        if "vhost_or_user_not_found" in reason:
            hint = f"make it: rabbitmqctl add_vhost {self._vhost}; or correct BOOTPOINT_BROKER_URL"
            return self._refusal(f"the broker has no virtual host {self._vhost}", hint)
        return self._refusal(f"it answers {status} {reason}".rstrip(), f"check {_SETTING}")

    def _refusal(self, text: str, hint: str) -> BootpointError:
        return self._problem(Code.BROKER_REFUSED, f"can't be used: {text}", hint)

    def _problem(self, code: Code, text: str, hint: str) -> BootpointError:
        place = f"{self._host}:{self._port}"
        return error(code, f"the broker's management API at {place} {text}", key=_SETTING, value=place, hint=hint)


def _read(text: bytes) -> Any:
    """Return an answer's JSON.

    Raises:
        FatalError: ``broker_refused``: it is none, so something else listens there.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise error(
            Code.BROKER_REFUSED, "what answers is no management API of RabbitMQ", key=_SETTING,
            hint="name the address of the plugin rabbitmq_management",
        ) from None  # fmt: skip


def _says_not_found(text: bytes) -> bool:
    """Tell whether a 404 is the API's word on a name; any other server, or a wrong path, answers 404 as well."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("error") == "Object Not Found"


def _reason(text: bytes) -> str:
    """Return why the API refuses, as far as it says so."""
    try:
        answer = json.loads(text)
        return str(answer.get("reason") or answer.get("error") or "")
    except (ValueError, AttributeError):
        return ""
