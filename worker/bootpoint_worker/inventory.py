"""The disks of agents' machines: when they are asked for, and what the answer must be."""

from __future__ import annotations

import msgspec
from psycopg.types.json import Jsonb

from bootpoint_common.store import disk, request
from bootpoint_common.store.agent import ONLINE_SECONDS, Agent
from bootpoint_common.store.database import Connection, one, rows, run

#: Seconds that an agent has to tell its disks.
ANSWER_SECONDS = 300.0

#: Seconds after which a running agent is asked again: a disk that was plugged in is noticed within so much.
REFRESH_SECONDS = 3600.0

#: Seconds after an agent's start in which nobody asks again: at a machine's start not every disk is there yet.
SETTLE_SECONDS = 600.0


class _Held(msgspec.Struct):
    kind: str
    path: str
    size_bytes: int
    fs: str | None = None
    mount: str | None = None
    used_bytes: int | None = None
    on: str | None = None


class _Partition(msgspec.Struct):
    number: int
    path: str
    start_bytes: int
    size_bytes: int
    fs: str | None = None
    label: str | None = None
    uuid: str | None = None
    mount: str | None = None
    used_bytes: int | None = None
    holds: list[_Held] = []


class _Disk(msgspec.Struct):
    id: str
    path: str
    size_bytes: int
    eligible: bool
    reason: str | None = None
    table: str | None = None
    logical_sector_bytes: int | None = None
    physical_sector_bytes: int | None = None
    used_bytes: int | None = None
    snapshot: str | None = None
    snapshot_reason: str | None = None
    tracker: str | None = None
    tracker_reason: str | None = None
    partitions: list[_Partition] = []


class _Nic(msgspec.Struct):
    name: str
    mac: str | None = None
    addresses: list[str] = []
    gateway: str | None = None


class _Machine(msgspec.Struct):
    os: str | None = None
    kernel: str | None = None
    firmware: str | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    nics: list[_Nic] = []


class Inventory(msgspec.Struct):
    """What views, definitions and the drawing rely on in an agent's list of disks."""

    items: list[_Disk]
    machine: _Machine | None = None
    problems: list[str] = []


def ask_first(connection: Connection, found: Agent) -> None:
    """Ask an agent that has never told its disks: the first run's preflight needs their sizes."""
    known = one(
        connection,
        f"SELECT 1 FROM agent a WHERE a.id = %s AND (a.inventory IS NOT NULL OR {_ASKED})",
        found.id,
    )
    if known is None:
        _ask(connection, found.name, asker=f"agent {found.name}")


def refresh(connection: Connection) -> None:
    """Ask the agents again that have run for a while, and haven't told their disks for long."""
    found = rows(
        connection,
        "SELECT name FROM agent a WHERE revoked_at IS NULL AND last_seen_at > now() - make_interval(secs => %s)"
        " AND incarnation_at < now() - make_interval(secs => %s)"
        f" AND inventory_at < now() - make_interval(secs => %s) AND NOT {_ASKED} FOR UPDATE OF a SKIP LOCKED",
        ONLINE_SECONDS,
        SETTLE_SECONDS,
        REFRESH_SECONDS,
    )
    for row in found:
        _ask(connection, row["name"], asker="reaper")


#: Whether an agent has a question after its disks that it may still answer.
_ASKED = """EXISTS (SELECT 1 FROM request r WHERE r.addressee = 'agent ' || a.name AND r.kind = 'disks'
    AND r.state = 'asked' AND r.expires_at > now())"""


def _ask(connection: Connection, name: str, *, asker: str) -> None:
    request.ask_agent(connection, name, "disks", {}, requested_by=asker, seconds=ANSWER_SECONDS)


def keep(connection: Connection, found: Agent, answer: object) -> None:
    """Keep what an agent said of its disks, and tell of those that no job protects."""
    run(
        connection,
        "UPDATE agent SET inventory = %s, inventory_at = now() WHERE id = %s",
        Jsonb(answer),
        found.id,
    )
    disk.review(connection, found.id, actor=f"agent {found.name}")
