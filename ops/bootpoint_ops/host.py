"""Target hosts as an operator sets them up: added, changed, removed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bootpoint_common.crypto import Vault
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.job import read_json
from bootpoint_common.store import event
from bootpoint_common.store import host as hosts
from bootpoint_common.store.database import Connection, rows, run
from bootpoint_common.store.host import Host
from bootpoint_ops.known import runs_by_itself
from bootpoint_worker.context import PORTS
from bootpoint_worker.preflight import require_login
from bootpoint_worker.targets.host import HostAccess

#: Names that fit file names, metrics and URLs alike.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

#: Values of ``virt_type``; never guessed from the machine that the worker runs on.
VIRT_TYPES = ("kvm", "qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHost:
    """A host as an operator states it, to be added, or to be reached without the database.

    Attributes:
        name: Its name.
        kind: ``kvm``, ``fake``, …
        address: DNS name or address; ``local`` for the machine that the workers run on.
        port: TCP port; None for the kind's own.
        user: Account.
        pool: Workers that serve it; None for the pool of its kind.
        fingerprint: The key that it must show; None for none (local).
        secrets: ``ssh_key`` or ``password`` to be saved; empty saves nothing.
        settings: What only one kind knows.
    """

    name: str
    kind: str
    address: str
    port: int | None = None
    user: str = "root"
    pool: str | None = None
    fingerprint: str | None = None
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def tcp_port(self) -> int:
        """The TCP port that was stated, or the kind's own."""
        return PORTS.get(self.kind, 0) if self.port is None else self.port

    def access(self, nbd_tls: Path | None = None) -> HostAccess:
        """Return it as drivers want it.

        Args:
            nbd_tls: This process's certificates for NBD; None for none.
        """
        return HostAccess(
            name=self.name,
            kind=self.kind,
            address=self.address,
            port=self.tcp_port,
            user=self.user,
            fingerprint=self.fingerprint,
            ssh_key=self.secrets.get("ssh_key"),
            password=self.secrets.get("password"),
            settings=self.settings,
            nbd_tls=nbd_tls,
        )


def add(connection: Connection, vault: Vault, new: NewHost, *, actor: str) -> Host:
    """Add a host.

    Raises:
        UsageError: ``spec_invalid``: the name is taken, or is none.
    """
    if _NAME.fullmatch(new.name) is None:
        raise error(
            Code.SPEC_INVALID,
            f"{new.name!r} is no name of a host",
            key="name",
            value=new.name,
            hint="use letters, digits, ., _ and -",
        )
    host_id = new_id()
    credentials = hosts.encrypt_credentials(vault, host_id, new.secrets) if new.secrets else None
    try:
        with connection.transaction():
            run(
                connection,
                "INSERT INTO host (id, name, kind, address, port, username, fingerprint, credentials, settings, pool)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                *(host_id, new.name, new.kind, new.address, new.tcp_port),
                *(new.user, new.fingerprint, credentials, Jsonb(new.settings), new.pool or new.kind),
            )
    except psycopg.errors.UniqueViolation as exc:
        raise error(
            Code.SPEC_INVALID,
            f"there is a host {new.name} already",
            key="name",
            value=new.name,
            hint="change it with `bootpoint host set`",
        ) from exc
    event.record(connection, "host_added", f"host {new.name} at {new.address} added", actor=actor, host=new.name)
    return hosts.get(connection, host_id)


def change(
    connection: Connection,
    vault: Vault,
    name: str,
    *,
    actor: str,
    columns: dict[str, Any],
    settings: dict[str, Any],
    secrets: dict[str, str] | None = None,
) -> Host:
    """Change a host.

    Args:
        connection: A transaction.
        vault: Encrypts the credentials.
        name: The host.
        actor: Who.
        columns: New values of address, port, username, pool, fingerprint, max_open_points.
        settings: New values of what only one kind knows.
        secrets: New credentials; an empty dict forgets the saved ones, None leaves them.

    Raises:
        NotFoundError: ``no_such_host``.
        RefusedError: ``credentials_not_saved``: jobs that run by themselves would have none.
    """
    found = hosts.by_name(connection, name)
    allowed = ("address", "port", "username", "pool", "fingerprint", "max_open_points")
    for column, value in columns.items():
        if column not in allowed:
            raise ValueError(column)
        run(connection, f"UPDATE host SET {column} = %s WHERE id = %s", value, found.id)
    if settings:
        run(connection, "UPDATE host SET settings = settings || %s WHERE id = %s", Jsonb(settings), found.id)
    if secrets is not None:
        saved = hosts.encrypt_credentials(vault, found.id, secrets) if secrets else None
        run(connection, "UPDATE host SET credentials = %s WHERE id = %s", saved, found.id)
    if secrets is not None or "address" in columns:
        _refuse_without_login(connection, hosts.get(connection, found.id))
    changed = [*columns, *settings, *(["credentials"] if secrets is not None else [])]
    event.record(connection, "host_changed", f"host {name}: {', '.join(changed)} changed", actor=actor, host=name)
    return hosts.get(connection, found.id)


def _refuse_without_login(connection: Connection, host: Host) -> None:
    """Refuse a change after which a schedule or an event would have no credentials."""
    try:
        require_login(host)
    except BootpointError as problem:
        found = rows(
            connection,
            "SELECT j.spec FROM job j JOIN replica y ON y.job_id = j.id WHERE y.host_id = %s AND y.state <> 'detached'"
            " AND j.enabled ORDER BY j.name",
            host.id,
        )
        names = [spec.name for spec in (read_json(row["spec"]) for row in found) if runs_by_itself(spec)]
        if names:
            problem.message = f"host {host.name} would have no saved credentials, and these jobs run by themselves on"
            problem.message += f" it: {', '.join(names)}"
            problem.hint = "disable them with `bootpoint job disable J`, or take their schedules and events out, first"
            raise


def remove(connection: Connection, name: str, *, actor: str) -> None:
    """Remove a host that keeps no replica.

    Raises:
        NotFoundError: ``no_such_host``.
        RefusedError: ``point_in_use``: it keeps replicas, in the trash or elsewhere.
    """
    found = hosts.by_name(connection, name)
    kept = rows(
        connection,
        "SELECT job_name AS name FROM replica WHERE host_id = %s"
        " UNION SELECT job_name || ' (trash)' FROM trash WHERE host_id = %s ORDER BY 1",
        *(found.id, found.id),
    )
    if kept:
        names = ", ".join(row["name"] for row in kept)
        raise error(
            Code.POINT_IN_USE,
            f"host {name} keeps replicas of: {names}",
            host=name,
            hint="delete their jobs with `bootpoint job delete J --delete-replica` and wait until the trash is empty;"
            f" or `bootpoint replica forget J {name}`, which leaves there what is there",
        )
    run(connection, "DELETE FROM host WHERE id = %s", found.id)
    event.record(connection, "host_removed", f"host {name} removed", actor=actor, host=name)
