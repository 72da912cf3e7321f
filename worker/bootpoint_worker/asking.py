"""What a live question brings along: the host that it is about, and a session with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from bootpoint_common.store import host as hosts
from bootpoint_common.store.host import Host
from bootpoint_common.store.request import Request
from bootpoint_worker.context import Context, access_with
from bootpoint_worker.preflight import require_login
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Target

#: A password that is not saved travels in the request's secret as a JSON object of these fields.
SECRET_FIELDS = ("ssh_key", "password")


def secret_purpose(request_id: UUID) -> str:
    """Return what a request's secret is bound to when the installation's key encrypts it."""
    return f"request {request_id}"


@contextmanager
def session(context: Context, request: Request, host: Host) -> Iterator[Target]:
    """Lend a session: a kept one, or one of its own when the request brings credentials that are not saved."""
    if request.secret is None:
        require_login(host)
        with context.sessions.use(host) as target:
            yield target
        return
    fields = json.loads(context.vault.decrypt(secret_purpose(request.id), request.secret))
    secrets = {name: fields[name] for name in SECRET_FIELDS if fields.get(name)}
    target = connect(access_with(host, secrets, nbd_tls=context.sessions.nbd_tls))
    try:
        yield target
    finally:
        target.close()


def host_of(context: Context, request: Request) -> Host:
    """Return the host that a request names."""
    with context.database.transaction() as connection:
        return hosts.by_name(connection, request.arguments["host"])
