"""Agents: who they are, their keys, and when they were last heard of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.cipher import AgentKey
from bootpoint_common.errors import Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.vault import Vault

from .database import Connection, Row, one, one_row, run

#: Seconds after which an agent that isn't heard of counts as offline: three heartbeats.
ONLINE_SECONDS = 30.0

#: Messages before an agent's newest one that may still come: two ingress threads may overtake each other. As many as
#: a signed bigint has bits for.
OVERTAKEN = 63

#: Seconds that a join token is good for.
JOIN_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of agent; keys still encrypted."""

    id: UUID
    name: str
    pool: str
    key_id: int | None
    key: bytes | None
    previous_key_id: int | None
    previous_key: bytes | None
    join_secret: bytes | None
    join_expires_at: datetime | None
    machine: dict[str, Any] | None
    incarnation: UUID | None
    counter: int
    counters_seen: int
    last_seen_at: datetime | None
    revoked_at: datetime | None

    def keys(self, vault: Vault) -> dict[int, bytes]:
        """Return the keys that messages of this agent may be encrypted with, by key id; none when revoked."""
        if self.revoked_at is not None:
            return {}
        pairs = ((self.key_id, self.key), (self.previous_key_id, self.previous_key))
        return {
            number: vault.decrypt(key_purpose(self.name), key)
            for number, key in pairs
            if number is not None and key is not None
        }

    def current_key(self, vault: Vault) -> AgentKey | None:
        """Return the key that messages to this agent are encrypted with."""
        if self.key_id is None or self.key is None or self.revoked_at is not None:
            return None
        return AgentKey(self.key_id, vault.decrypt(key_purpose(self.name), self.key))


def key_purpose(name: str) -> str:
    """Return what an agent's key is bound to when the installation's key encrypts it."""
    return f"agent key {name}"


def join_purpose(name: str) -> str:
    """Return what an agent's join secret is bound to when the installation's key encrypts it."""
    return f"join secret {name}"


def _agent(row: Row | None) -> Agent | None:
    return None if row is None else Agent(**{name: row[name] for name in Agent.__slots__})


def find(connection: Connection, name: str, *, lock: bool = False) -> Agent | None:
    """Read an agent by name; None when there is none.

    With ``lock`` it is others' turn after the transaction; runs of it may be made meanwhile, which only name it.
    """
    locked = " FOR NO KEY UPDATE" if lock else ""
    return _agent(one(connection, f"SELECT * FROM agent WHERE name = %s{locked}", name))


def get(connection: Connection, name: str) -> Agent:
    """Read an agent by name.

    Raises:
        NotFoundError: ``no_such_agent``.
    """
    found = find(connection, name)
    if found is None:
        raise error(Code.NO_SUCH_AGENT, f"there is no agent {name}", key="agent", value=name)
    return found


def enroll(connection: Connection, name: str, pool: str, join_secret: bytes) -> UUID:
    """Make an agent, or give an existing one a new join token.

    Args:
        connection: A transaction.
        name: Its name.
        pool: Its home pool.
        join_secret: Encrypted with the installation's key for `join_purpose`.

    Returns:
        Its id.
    """
    row = one_row(
        connection,
        "INSERT INTO agent (id, name, pool, join_secret, join_expires_at)"
        " VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))"
        " ON CONFLICT (name) DO UPDATE SET join_secret = excluded.join_secret,"
        " join_expires_at = excluded.join_expires_at RETURNING id",
        new_id(),
        name,
        pool,
        join_secret,
        JOIN_SECONDS,
    )
    return UUID(str(row["id"]))


def joined(connection: Connection, name: str, key_id: int, key: bytes, machine: dict[str, Any]) -> None:
    """Spend the token: store the agent's own key (encrypted) and its machine."""
    run(
        connection,
        "UPDATE agent SET previous_key_id = NULL, previous_key = NULL, key_id = %s, key = %s, machine = %s,"
        " join_secret = NULL, join_expires_at = NULL, revoked_at = NULL, incarnation = NULL, counter = 0,"
        " counters_seen = 0"
        " WHERE name = %s",
        key_id,
        key,
        Jsonb(machine),
        name,
    )


def revoke(connection: Connection, agent_id: UUID) -> None:
    """Refuse an agent's keys and its token from now on; may be called twice."""
    run(
        connection,
        "UPDATE agent SET revoked_at = coalesce(revoked_at, now()), join_secret = NULL, join_expires_at = NULL"
        " WHERE id = %s",
        agent_id,
    )


def accept(connection: Connection, found: Agent, incarnation: UUID, counter: int, *, is_hello: bool) -> bool:
    """Check a message's incarnation and counter, and take note of them.

    Messages may overtake each other between two ingress threads, so the newest counter alone would refuse good ones:
    a window of `OVERTAKEN` bits remembers which came (the method of RFC 4303, section 3.4.3).

    Args:
        connection: A transaction that has locked the agent's row.
        found: The row.
        incarnation: The start of the agent that the message is from.
        counter: Its number within that start.
        is_hello: Whether it may begin a new incarnation.

    Returns:
        False for a message of an older incarnation, and for one that came before or is too old to tell.
    """
    if is_hello and incarnation != found.incarnation:
        # UUIDv7 grows with time: a replayed hello of an older incarnation can't take over.
        if found.incarnation is not None and incarnation < found.incarnation:
            return False
        run(
            connection,
            "UPDATE agent SET incarnation = %s, incarnation_at = now(), counter = %s, counters_seen = 0,"
            " last_seen_at = now() WHERE id = %s",
            incarnation,
            counter,
            found.id,
        )
        return True
    if incarnation != found.incarnation:
        return False
    seen = _seen(found.counter, found.counters_seen, counter)
    if seen is None:
        return False
    run(
        connection,
        "UPDATE agent SET counter = %s, counters_seen = %s, last_seen_at = now() WHERE id = %s",
        max(counter, found.counter),
        seen,
        found.id,
    )
    return True


def _seen(newest: int, seen: int, counter: int) -> int | None:
    """Return the window's bits with one more message in it; None where that one came before, or is too old to tell."""
    ahead = counter - newest
    if ahead > 0:
        return (seen << ahead | 1 << ahead - 1) & (1 << OVERTAKEN) - 1 if ahead <= OVERTAKEN else 0
    # Before any shift: whoever has the key chooses the counters.
    if ahead == 0 or -ahead > OVERTAKEN:
        return None
    bit = 1 << -ahead - 1
    return None if seen & bit else seen | bit


def in_hand(connection: Connection, agent_id: UUID, runs: list[dict[str, Any]]) -> None:
    """Keep which runs the agent has in hand, with their progress."""
    run(connection, "UPDATE agent SET runs = %s WHERE id = %s", Jsonb(runs), agent_id)
