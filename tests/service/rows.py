"""Jobs as rows, many at a time and without the machines that they name: for what looks at the database only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common import job as jobs
from bootpoint_common.identity import new_id
from bootpoint_common.store.database import Connection, one_row, run

#: What an agent says of a machine with one small disk.
INVENTORY: dict[str, Any] = {
    "machine": {"cpus": 1, "memory_bytes": 2**30, "firmware": "bios", "nics": []},
    "items": [
        {
            "id": "serial:D1",
            "path": "/dev/sda",
            "size_bytes": 2**20,
            "logical_sector_bytes": 512,
            "physical_sector_bytes": 512,
            "eligible": True,
            "used_bytes": None,
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Wish:
    """A job that is to be there.

    Attributes:
        name: Its name.
        more: Keys of the job file beside name, source and target.
        agent: Its agent's name; by default one of its own.
    """

    name: str
    more: dict[str, Any]
    agent: str | None = None


def add_host(connection: Connection, name: str, *, places: int = 8) -> UUID:
    """Write a host in memory."""
    host_id = new_id()
    run(
        connection,
        "INSERT INTO host (id, name, kind, address, port, username, pool, state, max_open_points)"
        " VALUES (%s, %s, 'fake', %s, 0, 'root', 'fake', 'reachable', %s)",
        host_id,
        name,
        name,
        places,
    )
    return host_id


def add_jobs(connection: Connection, hosts: dict[str, UUID], wishes: Iterable[Wish]) -> dict[str, int]:
    """Write jobs that copy to all of the hosts, with their agents; nobody has planned them yet.

    Returns:
        Their numbers, by name.
    """
    made = {}
    for wish in wishes:
        agent = wish.agent or wish.name
        run(
            connection,
            # Without a key: what is said to it is dropped, for nobody listens.
            "INSERT INTO agent (id, name, pool, inventory, inventory_at) VALUES (%s, %s, 'fake', %s, now())"
            " ON CONFLICT (name) DO NOTHING",
            new_id(),
            agent,
            Jsonb(INVENTORY),
        )
        spec = jobs.read_json(
            {
                "name": wish.name,
                "source": {"agent": agent},
                "target": [{"host": host} for host in hosts],
                "check": {"boot": "never"},
                **wish.more,
            }
        )
        row = one_row(
            connection,
            "INSERT INTO job (name, revision, enabled, agent_id, spec)"
            " SELECT %s, 1, %s, id, %s FROM agent WHERE name = %s RETURNING id",
            wish.name,
            spec.enabled,
            Jsonb(jobs.as_json(spec)),
            agent,
        )
        made[wish.name] = int(row["id"])
        for host_id in hosts.values():
            run(
                connection,
                "INSERT INTO replica (id, job_id, job_name, host_id, pool) VALUES (%s, %s, %s, %s, 'fake')",
                new_id(),
                row["id"],
                wish.name,
                host_id,
            )
    return made
