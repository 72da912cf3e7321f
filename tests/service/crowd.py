"""A database as a large installation has it after years: jobs, runs, boot points and events, made by SQL."""

from __future__ import annotations

import psycopg

from bootpoint_common.store.migration import migrate

#: Jobs, each of a machine of its own with two disks.
JOBS = 10_000

#: Boot points of each job.
POINTS = 14

#: Events of it all.
EVENTS = 1_000_000

#: Jobs whose last run failed, and which have no boot point: one in so many.
_FAILING, _NEVER = 400, 500

_INVENTORY = """
{"machine": {}, "items": [
  {"id": "serial:a", "path": "/dev/sda", "size_bytes": 68719476736, "eligible": true, "tracker": "ebpf"},
  {"id": "serial:b", "path": "/dev/sdb", "size_bytes": 68719476736, "eligible": false, "reason": "swap_only"}]}
"""

#: Statements in their order; ids are made of numbers, so that rows find each other.
_FILL = """
INSERT INTO host (id, name, kind, address, port, username, pool, state)
SELECT md5('h' || n)::uuid, 'kvm' || n, 'fake', 'kvm' || n, 0, 'root', 'fake', 'reachable'
FROM generate_series(0, 19) AS n;

INSERT INTO agent (id, name, pool, key_id, last_seen_at, inventory, inventory_at)
SELECT md5('a' || n)::uuid, 'agent-' || n, 'fake', 1, now(), %(inventory)s::jsonb, now()
FROM generate_series(1, %(jobs)s) AS n;

INSERT INTO job (name, revision, enabled, agent_id, spec)
SELECT 'job-' || n, 1, true, md5('a' || n)::uuid, jsonb_build_object('name', 'job-' || n, 'enabled', true,
    'objective', jsonb_build_object('point', '60h', 'bootable', '4d'),
    'source', jsonb_build_object('agent', 'agent-' || n, 'disks', 'all', 'consistency', 'fs'),
    'check', jsonb_build_object('verify', '7d', 'boot', '1d'),
    'target', jsonb_build_array(jsonb_build_object('host', 'kvm' || n %% 20, 'points', 14)))
FROM generate_series(1, %(jobs)s) AS n;

INSERT INTO job_revision (job_id, revision, spec, actor, at)
SELECT id, 1, spec, 'eva@desk', now() - interval '400 days' FROM job;

INSERT INTO replica (id, job_id, job_name, host_id, pool)
SELECT md5('y' || id)::uuid, id, name, md5('h' || id %% 20)::uuid, 'fake' FROM job;

INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, reason, due_at, started_at,
    ended_at)
SELECT md5('r' || j.id || '-' || n)::uuid, j.id, j.name, j.agent_id, 'fake', 'schedule', 'scheduler',
    CASE WHEN failed THEN 'failed' ELSE 'succeeded' END, CASE WHEN failed THEN 'host_full' END, at, at,
    at + interval '40 seconds'
FROM job j, generate_series(1, %(points)s) AS n, LATERAL (
    SELECT now() - (%(points)s + 1 - n) * interval '12 hours' AS at,
        n = %(points)s AND j.id %% %(failing)s = 0 AS failed) AS t;

INSERT INTO run_target (run_uid, replica_id, host_id)
SELECT r.uid, y.id, y.host_id FROM run r JOIN replica y ON y.job_id = r.job_id;

INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, epoch, chain, consistency, instant,
    incarnation, committed_at, ended_at, boot)
SELECT md5('p' || r.uid)::uuid, md5('y' || r.job_id)::uuid, r.uid, r.id,
    to_char(r.started_at AT TIME ZONE 'UTC', '"V"YYYYMMDD_HH24MISS'), 'committed', 'increment', 1, 1, 'fs',
    r.started_at,
    md5('i')::uuid, r.ended_at, r.ended_at, '{"verdict": "boots"}'
FROM run r WHERE r.state = 'succeeded' AND r.job_id %% %(never)s > 0;

INSERT INTO boot_point_disk (id, point_id, slot, position, size_bytes, window_bytes, scanned_bytes, changed_bytes,
    wire_bytes, stored_bytes)
SELECT md5('d' || id)::uuid, id, 'system', 0, 68719476736, 0, 1000000, 1000000, 400000, 1000000 FROM boot_point;

UPDATE run SET changed_bytes = 1000000 WHERE state = 'succeeded' AND job_id %% %(never)s > 0;

UPDATE replica y SET head = p.id FROM (
    SELECT DISTINCT ON (replica_id) replica_id, id FROM boot_point ORDER BY replica_id, sequence DESC) p
WHERE p.replica_id = y.id;

INSERT INTO event (at, kind, actor, origin, job, run, point, host, agent, code, text, details)
SELECT at,
    (ARRAY['run_requested', 'point_committed', 'run_succeeded', 'point_verified', 'boot_checked', 'run_failed',
        'point_consolidated'])[1 + n %% 7],
    CASE WHEN n %% 9 = 0 THEN 'scheduler' ELSE 'worker' END, 'worker@control-' || n %% 3 || ':4711',
    'job-' || 1 + (n * 7919::bigint) %% %(jobs)s, n / 7, to_char(at AT TIME ZONE 'UTC', '"V"YYYYMMDD_HH24MISS'),
    'kvm' || n %% 20, 'agent-' || 1 + n %% %(jobs)s,
    CASE WHEN n %% 7 = 5 THEN 'host_full' END, 'what happened, number ' || n, jsonb_build_object('seconds', n %% 100)
FROM generate_series(1, %(events)s) AS n, LATERAL (
    SELECT now() - (%(events)s - n) * (interval '400 days' / %(events)s) AS at) AS t
"""


def crowd(url: str, *, jobs: int = JOBS, points: int = POINTS, events: int = EVENTS) -> None:
    """Migrate a database and fill it; its statistics are up to date afterwards.

    Args:
        url: An empty database.
        jobs: How many jobs and machines.
        points: How many runs, and boot points, of each.
        events: How many events.
    """
    migrate(url)
    numbers = {
        "jobs": jobs, "points": points, "events": events, "failing": _FAILING, "never": _NEVER, "inventory": _INVENTORY,
    }  # fmt: skip
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _FILL.split(";\n"):
            connection.execute(statement.encode(), numbers)
        connection.execute("VACUUM ANALYZE")
