-- What outside checks read: columns are the JSON keys of the command line's output.

-- "30m" as seconds; NULL where it is no duration.
CREATE FUNCTION duration_seconds(value text) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT part[1]::double precision * CASE part[2] WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600 ELSE 86400 END
    FROM regexp_match(value, '^(\d+(?:\.\d+)?)([smhd])$') AS part
$$;

-- pending: enrolled, never joined. An agent beats every 10 s; three missed beats make it offline.
CREATE FUNCTION agent_state(key_id integer, last_seen_at timestamptz, revoked_at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN key_id IS NULL THEN 'pending'
                WHEN last_seen_at > now() - interval '30 seconds' THEN 'online' ELSE 'offline' END
$$;

CREATE FUNCTION age_seconds(at timestamptz) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN at IS NOT NULL
        THEN round(extract(epoch FROM greatest(now() - at, interval '0'))::numeric, 1)::double precision END
$$;

-- What PostgreSQL shows of an instant depends on the session; JSON has RFC 3339 in UTC.
CREATE FUNCTION json_instant(at timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', CASE WHEN date_trunc('second', at) = at
        THEN 'YYYY-MM-DD"T"HH24:MI:SS"Z"' ELSE 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"' END)
$$;

-- A point's digests: b3:<hex>; of several disks in the job's order, parted by commas.
CREATE VIEW v_boot_point AS
SELECT y.job_name AS job, p.name, h.name AS host, p.state, p.chain,
    CASE WHEN p.state = 'committed' THEN (SELECT count(*) FROM boot_point b WHERE b.replica_id = p.replica_id
        AND b.chain = p.chain AND b.state = 'committed' AND b.sequence <= p.sequence) END AS depth,
    p.instant, p.committed_at, r.id AS run, p.kind, p.reason, p.consistency,
    d.changed_bytes, d.wire_bytes, d.stored_bytes, d.read_digest, d.applied_digest, d.reread_digest,
    p.verified_at, p.damaged_at, p.boot, p.pinned, '[]'::jsonb AS in_use_by
FROM boot_point p
JOIN replica y ON y.id = p.replica_id
JOIN host h ON h.id = y.host_id
JOIN run r ON r.uid = p.run_uid
LEFT JOIN LATERAL (
    SELECT sum(changed_bytes)::bigint AS changed_bytes, sum(wire_bytes)::bigint AS wire_bytes,
        sum(stored_bytes)::bigint AS stored_bytes,
        CASE WHEN bool_and(read_digest IS NOT NULL)
            THEN string_agg('b3:' || encode(read_digest, 'hex'), ',' ORDER BY position) END AS read_digest,
        CASE WHEN bool_and(applied_digest IS NOT NULL)
            THEN string_agg('b3:' || encode(applied_digest, 'hex'), ',' ORDER BY position) END AS applied_digest,
        CASE WHEN bool_and(reread_digest IS NOT NULL)
            THEN string_agg('b3:' || encode(reread_digest, 'hex'), ',' ORDER BY position) END AS reread_digest
    FROM boot_point_disk WHERE point_id = p.id
) d ON true;

-- Before a disk's seal the agent's last heartbeat says how far it is.
CREATE VIEW v_run AS
SELECT r.id, r.job_name AS job, r.trigger, r.requested_by, r.state, r.reason, r.message, r.hint, r.retryable, r.attempt,
    r.due_at, r.started_at, r.ended_at, r.plan, r.consistency, coalesce(t.targets, '[]') AS targets, r.scripts
FROM run r
JOIN agent a ON a.id = r.agent_id
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('host', h.name, 'point', p.name, 'state', p.state,
        'reason', coalesce(x.reason, p.problem->>'code'), 'disks', coalesce(d.disks, '[]')) ORDER BY h.name) AS targets
    FROM run_target x
    JOIN host h ON h.id = x.host_id
    LEFT JOIN boot_point p ON p.run_uid = x.run_uid AND p.replica_id = x.replica_id
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(jsonb_build_object('slot', b.slot, 'size_bytes', b.size_bytes, 'tracker', b.tracker,
            'fallback', b.fallback,
            'scanned_bytes', coalesce(b.scanned_bytes, (g.now->>'scanned_bytes')::bigint),
            'changed_bytes', coalesce(b.changed_bytes, (g.now->>'changed_bytes')::bigint),
            'wire_bytes', coalesce(b.wire_bytes, (g.now->>'wire_bytes')::bigint),
            'applied_bytes', b.applied_bytes, 'watermark_bytes', b.watermark_bytes,
            'credit_wait_seconds', CASE WHEN b.sealed_at IS NULL
                THEN coalesce((g.now->>'credit_wait_seconds')::double precision, 0)
                ELSE b.credit_wait_seconds END) ORDER BY b.position) AS disks
        FROM boot_point_disk b
        LEFT JOIN LATERAL (
            SELECT disk AS now FROM jsonb_array_elements(a.runs) AS hand, jsonb_array_elements(hand->'disks') AS disk
            WHERE hand->>'run' = r.uid::text AND disk->>'slot' = b.slot LIMIT 1
        ) g ON true
        WHERE b.point_id = p.id
    ) d ON true
    WHERE x.run_uid = r.uid
) t ON true;

CREATE VIEW v_event AS
SELECT id, at, kind, actor, origin, job, run, point, host, agent, code, text, details FROM event;

CREATE VIEW v_job AS
SELECT s.id, s.name, s.revision, s.enabled,
    CASE WHEN NOT s.enabled THEN 'disabled' WHEN s.drift IS NOT NULL THEN 'drift'
         WHEN s.broken OR s.last_state = 'failed' THEN 'failing' WHEN s.newest IS NULL THEN 'never'
         WHEN s.age > s.objective_point THEN 'late' ELSE 'ok' END AS state,
    CASE WHEN NOT s.enabled THEN NULL WHEN s.drift IS NOT NULL THEN 'drift'
         WHEN s.broken THEN 'layer_lost' WHEN s.last_state = 'failed' THEN s.last_reason END AS state_reason,
    jsonb_build_object('point', s.objective_point, 'bootable', s.objective_bootable) AS objective_seconds,
    s.age AS newest_point_age_seconds, s.bootable_age AS newest_bootable_point_age_seconds,
    NULL::timestamptz AS next_run_at, NULL::jsonb AS next_run, s.last_run, s.running, s.source, s.targets,
    s.unprotected_disks, s.trend_changed_bytes, s.spec
FROM (
    SELECT j.id, j.name, j.revision, j.enabled, j.spec,
        duration_seconds(j.spec #>> '{objective,point}') AS objective_point,
        duration_seconds(j.spec #>> '{objective,bootable}') AS objective_bootable,
        y.drift, coalesce(y.broken, false) AS broken, y.newest, age_seconds(y.newest) AS age,
        age_seconds(y.bootable) AS bootable_age, coalesce(y.targets, '[]') AS targets,
        done.state AS last_state, done.reason AS last_reason,
        CASE WHEN last.id IS NOT NULL THEN jsonb_build_object('id', last.id, 'state', last.state, 'reason', last.reason,
            'ended_at', json_instant(last.ended_at)) END AS last_run,
        (SELECT r.id FROM run r WHERE r.job_id = j.id AND r.state IN ('waiting', 'running')) AS running,
        jsonb_build_object('agent', a.name, 'agent_state', agent_state(a.key_id, a.last_seen_at, a.revoked_at),
            'agent_version', a.version) AS source,
        coalesce(u.disks, '[]') AS unprotected_disks, coalesce(c.trend, '[]') AS trend_changed_bytes
    FROM job j
    JOIN agent a ON a.id = j.agent_id
    LEFT JOIN LATERAL (
        SELECT id, state, reason, ended_at FROM run WHERE job_id = j.id AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
    ) last ON true
    LEFT JOIN LATERAL (
        SELECT state, reason FROM run WHERE job_id = j.id AND state IN ('succeeded', 'failed') ORDER BY id DESC LIMIT 1
    ) done ON true
    -- The job is as old as its oldest head; it has none as long as one target has none.
    LEFT JOIN LATERAL (
        SELECT CASE WHEN bool_and(p.id IS NOT NULL) FILTER (WHERE r.state <> 'detached')
                THEN min(p.instant) FILTER (WHERE r.state <> 'detached') END AS newest,
            CASE WHEN bool_and(o.instant IS NOT NULL) FILTER (WHERE r.state <> 'detached')
                THEN min(o.instant) FILTER (WHERE r.state <> 'detached') END AS bootable,
            bool_or(r.state = 'broken') AS broken,
            max(r.drift) AS drift,
            jsonb_agg(jsonb_build_object('host', h.name,
                'vm', coalesce(r.definition->>'vm_name', wanted.target #>> '{vm,name}'), 'chain', r.chain,
                'epoch', r.epoch, 'head', p.name,
                'points', (SELECT count(*) FROM boot_point b WHERE b.replica_id = r.id AND b.state = 'committed'),
                'points_limit', (wanted.target->>'points')::integer, 'state', r.state, 'standby', r.standby,
                'drift', r.drift) ORDER BY r.state = 'detached', h.name) AS targets
        FROM replica r
        JOIN host h ON h.id = r.host_id
        LEFT JOIN boot_point p ON p.id = r.head
        LEFT JOIN LATERAL (
            SELECT max(b.instant) AS instant FROM boot_point b
            WHERE b.replica_id = r.id AND b.state = 'committed' AND b.boot->>'verdict' = 'boots'
        ) o ON true
        LEFT JOIN LATERAL (
            SELECT target FROM jsonb_array_elements(j.spec->'target') AS target WHERE target->>'host' = h.name LIMIT 1
        ) wanted ON true
        WHERE r.job_id = j.id
    ) y ON true
    -- Eligible disks of the machine that no job of it selects.
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(item->>'id' ORDER BY item->>'id') AS disks
        FROM jsonb_array_elements(coalesce(a.inventory->'items', '[]')) AS item
        WHERE (item->>'eligible')::boolean AND NOT EXISTS (
            SELECT 1 FROM job k WHERE k.agent_id = a.id AND (jsonb_typeof(k.spec #> '{source,disks}') IS DISTINCT FROM 'array'
                OR EXISTS (SELECT 1 FROM jsonb_array_elements(k.spec #> '{source,disks}') AS disk
                    WHERE disk->>'id' = item->>'id')))
    ) u ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(n.changed_bytes ORDER BY n.id) AS trend FROM (
            SELECT r.id, max(v.changed_bytes) AS changed_bytes FROM run r JOIN LATERAL (
                SELECT sum(d.changed_bytes)::bigint AS changed_bytes FROM boot_point p
                JOIN boot_point_disk d ON d.point_id = p.id WHERE p.run_uid = r.uid AND p.state = 'committed' GROUP BY p.id
            ) v ON true
            WHERE r.job_id = j.id GROUP BY r.id ORDER BY r.id DESC LIMIT 14
        ) n
    ) c ON true
) s;
