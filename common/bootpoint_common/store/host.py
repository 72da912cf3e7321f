"""Target hosts: how they are reached, and what they last said of themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.vault import Vault

from .database import Connection, Row, one, rows, run


@dataclass(frozen=True, slots=True)
class Host:
    """A row of host; the credentials still encrypted."""

    id: UUID
    name: str
    kind: str
    address: str
    port: int
    username: str
    fingerprint: str | None
    credentials: bytes | None
    settings: dict[str, Any]
    pool: str
    max_open_points: int
    state: str

    def secrets(self, vault: Vault) -> dict[str, str]:
        """Return ``ssh_key`` and ``password`` as far as they are saved."""
        if self.credentials is None:
            return {}
        secrets: dict[str, str] = json.loads(vault.decrypt(credentials_purpose(self.id), self.credentials))
        return secrets


def credentials_purpose(host_id: UUID) -> str:
    """Return what a host's credentials are bound to when the installation's key encrypts them."""
    return f"host credentials {host_id}"


def encrypt_credentials(vault: Vault, host_id: UUID, secrets: dict[str, str]) -> bytes:
    """Encrypt ``ssh_key`` and ``password`` for the row of a host."""
    return vault.encrypt(credentials_purpose(host_id), json.dumps(secrets).encode())


def _host(row: Row) -> Host:
    return Host(**{name: row[name] for name in Host.__slots__})


def get(connection: Connection, host_id: UUID) -> Host:
    """Read a host by id.

    Raises:
        NotFoundError: ``no_such_host``.
    """
    row = one(connection, "SELECT * FROM host WHERE id = %s", host_id)
    if row is None:
        raise error(Code.NO_SUCH_HOST, f"there is no host {host_id}", key="host", value=host_id)
    return _host(row)


def by_name(connection: Connection, name: str) -> Host:
    """Read a host by name.

    Raises:
        NotFoundError: ``no_such_host``.
    """
    row = one(connection, "SELECT * FROM host WHERE name = %s", name)
    if row is None:
        raise error(Code.NO_SUCH_HOST, f"there is no host {name}", key="host", value=name)
    return _host(row)


def storages(connection: Connection, host_id: UUID) -> list[str]:
    """Return the names of a host's storages that replicas lie on."""
    query = "SELECT DISTINCT definition->>'storage' AS name FROM replica WHERE host_id = %s AND definition IS NOT NULL"
    return sorted(row["name"] for row in rows(connection, query, host_id))


def checked(connection: Connection, host_id: UUID, info: dict[str, Any] | None, problem: BootpointError | None) -> None:
    """Keep what a check of the host found: its information, or why there is none."""
    state = "reachable" if problem is None else "unreachable" if problem.retryable else "refused"
    run(
        connection,
        "UPDATE host SET state = %s, reason = %s, checked_at = now(), info = coalesce(%s, info) WHERE id = %s",
        state,
        None if problem is None else str(problem.code),
        None if info is None else Jsonb(info),
        host_id,
    )
