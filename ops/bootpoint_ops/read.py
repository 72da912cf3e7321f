"""What the commands show, as the JSON of the public contract: read from the views, else from rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.store import agent as agents
from bootpoint_common.store import damage, line, process
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection, Row, one, rows
from bootpoint_common.store.shown import jsonable


def _objects(found: list[Row]) -> list[dict[str, Any]]:
    return [jsonable(row) for row in found]


def job_list(connection: Connection) -> list[dict[str, Any]]:
    """Return every job as ``job show`` does."""
    found = rows(connection, "SELECT * FROM v_job ORDER BY name")
    # What is JSON in the row is so already: going through all of it takes a second for ten thousand jobs.
    return [{name: value if isinstance(value, dict | list) else jsonable(value) for name, value in row.items()}
            for row in found]  # fmt: skip


def job(connection: Connection, name: str) -> dict[str, Any]:
    """Return a job, by name or number.

    Raises:
        NotFoundError: ``no_such_job``.
    """
    found = one(connection, "SELECT * FROM v_job WHERE id = %s", jobs.by_name(connection, name).id)
    shown: dict[str, Any] = jsonable(found)
    return shown


def run_list(
    connection: Connection,
    *,
    job_name: str | None = None,
    failed: bool = False,
    since: datetime | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Return runs, newest first."""
    return _objects(
        rows(
            connection,
            "SELECT * FROM v_run WHERE (%s::text IS NULL OR job = %s) AND (NOT %s OR state = 'failed')"
            " AND (%s::timestamptz IS NULL OR due_at >= %s) ORDER BY id DESC LIMIT %s",
            job_name,
            job_name,
            failed,
            since,
            since,
            limit,
        )
    )


def run(connection: Connection, number: int) -> dict[str, Any]:
    """Return one run.

    Raises:
        NotFoundError: ``no_such_run``.
    """
    found = one(connection, "SELECT * FROM v_run WHERE id = %s", number)
    if found is None:
        raise error(Code.NO_SUCH_RUN, f"there is no run {number}", key="run", value=number)
    shown: dict[str, Any] = jsonable(found)
    return shown


def run_line(connection: Connection, number: int) -> str | None:
    """Return what a run waits for: its place in the line, the script that decides how it ends, or the broker."""
    if one(connection, _SCRIPT, number) is not None:
        return "the script after_point"
    running = one(connection, "SELECT 1 FROM run WHERE id = %s AND state = 'running'", number)
    if running is not None and process.held_back(connection) is not None:
        return "the broker, which takes nothing: an alarm of its memory or its disk"
    return line.shown(connection, number)


_SCRIPT = """
SELECT 1 FROM run r WHERE id = %s AND state = 'running' AND reports AND ending IS NULL
  AND NOT EXISTS (SELECT 1 FROM run_target t WHERE t.run_uid = r.uid AND NOT EXISTS (SELECT 1 FROM boot_point p
    WHERE p.run_uid = r.uid AND p.replica_id = t.replica_id AND p.state = 'committed'))
"""


def run_events(connection: Connection, number: int) -> list[dict[str, Any]]:
    """Return what the history has about a run, oldest first."""
    return _objects(rows(connection, "SELECT * FROM v_event WHERE run = %s ORDER BY id", number))


def replica_of(connection: Connection, job_name: str, host: str | None) -> jobs.ReplicaRow:
    """Return a job's replica on a host, or its only one.

    Raises:
        NotFoundError: ``no_such_job``, ``no_such_host``.
        UsageError: ``spec_invalid``: the job has several targets, and none is named.
    """
    found = jobs.by_name(connection, job_name)
    replicas = jobs.replicas(connection, found.id)
    if host is not None:
        replicas = [replica for replica in replicas if replica.host == host]
        if not replicas:
            raise error(
                Code.NO_SUCH_HOST, f"job {found.name} has no target {host}", job=found.name, key="host", value=host
            )
        return replicas[0]
    attached = [replica for replica in replicas if replica.state != "detached"] or replicas
    if len(attached) == 1:
        return attached[0]
    names = ", ".join(replica.host for replica in attached)
    raise error(
        Code.SPEC_INVALID,
        f"job {found.name} has several targets: {names}",
        job=found.name,
        key="--host",
        hint="say which one with --host",
    )


def point_list(
    connection: Connection, job_name: str, *, host: str | None = None, every: bool = False
) -> dict[str, Any]:
    """Return a job's points, newest first; without ``every``, aborted ones are left out."""
    found = jobs.by_name(connection, job_name)
    if host is not None:
        replica_of(connection, found.name, host)
    items = _objects(
        rows(
            connection,
            "SELECT * FROM v_boot_point WHERE job = %s AND (%s::text IS NULL OR host = %s)"
            " AND (%s OR state <> 'aborted') ORDER BY instant DESC, host",
            *(found.name, host, host, every),
        )
    )
    for item in items:
        del item["job"]
    return {"job": found.name, "items": items}


def point_id(connection: Connection, replica: jobs.ReplicaRow, name: str) -> UUID:
    """Return the id of a point; ``latest`` is the head.

    Raises:
        NotFoundError: ``no_such_point``.
    """
    if name == "latest" and replica.head is not None:
        return replica.head
    found = one(
        connection,
        "SELECT id FROM boot_point WHERE replica_id = %s AND name = %s AND consolidated_at IS NULL"
        " ORDER BY sequence DESC",
        *(replica.id, name),
    )
    if found is None:
        raise error(
            Code.NO_SUCH_POINT, f"job {replica.job_name} has no boot point {name} on {replica.host}",
            job=replica.job_name, host=replica.host, key="point", value=name,
        )  # fmt: skip
    return UUID(str(found["id"]))


def point(connection: Connection, replica: jobs.ReplicaRow, name: str) -> dict[str, Any]:
    """Return one point of a replica, with its disks.

    Raises:
        NotFoundError: ``no_such_point``.
    """
    found = point_id(connection, replica, name)
    shown = one(
        connection,
        "SELECT v.* FROM v_boot_point v JOIN boot_point p ON p.id = %s AND p.name = v.name AND p.state = v.state"
        " WHERE v.job = %s AND v.host = %s",
        found,
        replica.job_name,
        replica.host,
    )
    if shown is None:
        raise error(
            Code.NO_SUCH_POINT, f"boot point {name} was merged into a later one",
            job=replica.job_name, host=replica.host, key="point", value=name,
        )  # fmt: skip
    disks = rows(
        connection,
        "SELECT slot, size_bytes, layer, tracker, fallback, scanned_bytes, changed_bytes, wire_bytes, applied_bytes,"
        " watermark_bytes, stored_bytes, credit_wait_seconds, 'b3:' || encode(read_digest, 'hex') AS read_digest,"
        " 'b3:' || encode(applied_digest, 'hex') AS applied_digest,"
        " 'b3:' || encode(reread_digest, 'hex') AS reread_digest,"
        " coalesce(skipped, '[]') AS skipped, workers FROM boot_point_disk WHERE point_id = %s ORDER BY position",
        found,
    )
    profile = one(connection, "SELECT profile FROM replica WHERE id = %s AND profile ? 'made_at'", replica.id)
    damaged = [{**each.as_json(), "text": each.text} for each in damage.of_point(connection, found)]
    return {
        **jsonable(shown),
        "disks": _objects(disks),
        "damage": damaged,
        "profile": None if profile is None else profile["profile"],
    }


def is_damaged(item: dict[str, Any]) -> bool:
    """Tell whether a point, as the views have it, is damaged as far as is known: nothing newer says otherwise."""
    damaged, verified = item["damaged_at"], item["verified_at"]
    return damaged is not None and (
        verified is None or datetime.fromisoformat(damaged) >= datetime.fromisoformat(verified)
    )


def host_list(connection: Connection) -> list[dict[str, Any]]:
    """Return every host as it was at its last check."""
    return [_host(connection, row) for row in rows(connection, "SELECT * FROM host ORDER BY name")]


def host(connection: Connection, name: str) -> dict[str, Any]:
    """Return a host as it was at its last check.

    Raises:
        NotFoundError: ``no_such_host``.
    """
    found = one(connection, "SELECT * FROM host WHERE name = %s", name)
    if found is None:
        raise error(Code.NO_SUCH_HOST, f"there is no host {name}", key="host", value=name)
    return _host(connection, found)


def _host(connection: Connection, row: Row) -> dict[str, Any]:
    info = row["info"] or {}
    replicas = rows(
        connection,
        "SELECT y.job_name AS job, y.definition->>'vm_name' AS vm, count(DISTINCT p.id) AS points,"
        " coalesce(sum(d.stored_bytes), 0)::bigint AS stored_bytes,"
        " max((y.definition->>'memory_bytes')::bigint) AS memory"
        " FROM replica y LEFT JOIN boot_point p ON p.replica_id = y.id AND p.state = 'committed'"
        " AND p.consolidated_at IS NULL"
        " LEFT JOIN boot_point_disk d ON d.point_id = p.id WHERE y.host_id = %s GROUP BY y.id ORDER BY y.job_name",
        row["id"],
    )
    memory = sum(replica.pop("memory") or 0 for replica in replicas)
    shown: dict[str, Any] = jsonable(
        {
            **{name: row[name] for name in ("name", "kind", "address", "port")},
            "user": row["username"],
            "virt_type": row["settings"].get("virt_type"),
            "virtio_win": row["settings"].get("virtio_win"),
            "pool": row["pool"],
            "credentials": "saved" if row["credentials"] is not None else "not saved",
            **{name: row[name] for name in ("fingerprint", "state", "reason", "checked_at")},
            **{name: info.get(name) for name in ("version", "cpus", "memory_bytes")},
            "standby_memory_bytes": memory,
            **{name: info.get(name) or [] for name in ("storages", "networks", "buses", "nic_models")},
            **{name: info.get(name) for name in ("licence", "disk_library")},
            **{name: info.get(name) or [] for name in ("resource_pools", "hardware_versions", "problems", "hints")},
            "cluster": info.get("cluster"),
            "point_limit": info.get("point_limit"),
            "max_open_points": row["max_open_points"],
            "replicas": replicas,
        }
    )
    return shown


_AGENT = """
SELECT a.name, agent_state(a.key_id, a.last_seen_at, a.revoked_at) AS state, a.version, a.pool, a.last_seen_at,
    a.created_at, a.machine, a.inventory_at AS disks_read_at,
    (SELECT coalesce(jsonb_agg(j.name ORDER BY j.name), '[]') FROM job j WHERE j.agent_id = a.id) AS jobs
FROM agent a
"""


def agent_list(connection: Connection) -> list[dict[str, Any]]:
    """Return every agent."""
    return _objects(rows(connection, _AGENT + "ORDER BY a.name"))


def agent(connection: Connection, name: str) -> dict[str, Any]:
    """Return one agent.

    Raises:
        NotFoundError: ``no_such_agent``.
    """
    agents.get(connection, name)
    shown: dict[str, Any] = jsonable(one(connection, _AGENT + "WHERE a.name = %s", name))
    return shown


def disk_list(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return what an agent last said of its disks, with the jobs that protect each; None where it never said."""
    agents.get(connection, name)
    found = one(connection, "SELECT id, inventory, inventory_at FROM agent WHERE name = %s", name)
    if found is None or found["inventory"] is None:
        return None
    protected = rows(
        connection,
        "SELECT name, spec #> '{source,disks}' AS disks FROM job WHERE agent_id = %s ORDER BY name",
        found["id"],
    )
    items = [{**item, "protected_by": _protectors(item, protected)} for item in found["inventory"]["items"]]
    return {
        "agent": name,
        "read_at": jsonable(found["inventory_at"]),
        "machine": found["inventory"].get("machine"),
        "items": items,
        "problems": found["inventory"].get("problems") or [],
    }


def unprotected(connection: Connection) -> list[dict[str, Any]]:
    """Return every disk that could be protected and is in no job, by agent; ``jobs`` says whether that has any."""
    return _objects(
        rows(
            connection,
            "SELECT a.name AS agent, d.item->>'id' AS id, d.item->>'path' AS path,"
            " (d.item->>'size_bytes')::bigint AS size_bytes, u.since,"
            " EXISTS (SELECT 1 FROM job j WHERE j.agent_id = a.id) AS jobs FROM agent a"
            " CROSS JOIN LATERAL unprotected_disks(a.id) AS d(item)"
            " LEFT JOIN unprotected_disk u ON u.agent_id = a.id AND u.disk_id = d.item->>'id'"
            " WHERE a.revoked_at IS NULL ORDER BY a.name, d.item->>'path', d.item->>'id'",
        )
    )


def _protectors(item: dict[str, Any], protected: list[Row]) -> list[str]:
    return [
        row["name"]
        for row in protected
        if (
            item["eligible"]
            if not isinstance(row["disks"], list)
            else any(disk["id"] == item["id"] for disk in row["disks"])
        )
    ]
