-- Boot points for their whole life: merged into their successor, pinned, referred to.

-- A point that was merged into its successor is no longer on the host; its row stays for the history of its run.
ALTER TABLE boot_point ADD COLUMN consolidated_at timestamptz;

-- The point that is being merged: written before the host is touched, cleared when the rows say what the host has.
ALTER TABLE replica ADD COLUMN consolidating uuid;
-- Why nothing may be consolidated until an operator says so (entropy watch): {"reason", "at", "point"}.
ALTER TABLE replica ADD COLUMN frozen jsonb;
-- What starting this machine on its host takes, worked out at its first point; the host's journal has it too.
ALTER TABLE replica ADD COLUMN profile jsonb;

-- Who needs a point as it is. File locks don't see a VM that is powered off, so the catalogue is ours.
CREATE TABLE reference (
    id uuid PRIMARY KEY,
    point_id uuid NOT NULL REFERENCES boot_point ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('standby', 'test', 'check', 'verify', 'export', 'mount')),
    holder text NOT NULL,                     -- who, for people: a user, a test's id, a worker
    created_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz NOT NULL                -- after it the reference holds nothing; 'infinity' for a standby
);
CREATE INDEX reference_point ON reference (point_id);

-- As before, without points that were merged, and with who uses a point.
CREATE OR REPLACE VIEW v_boot_point AS
SELECT y.job_name AS job, p.name, h.name AS host, p.state, p.chain,
    CASE WHEN p.state = 'committed' THEN (SELECT count(*) FROM boot_point b WHERE b.replica_id = p.replica_id
        AND b.chain = p.chain AND b.state = 'committed' AND b.consolidated_at IS NULL
        AND b.sequence <= p.sequence) END AS depth,
    p.instant, p.committed_at, r.id AS run, p.kind, p.reason, p.consistency,
    d.changed_bytes, d.wire_bytes, d.stored_bytes, d.read_digest, d.applied_digest, d.reread_digest,
    p.verified_at, p.damaged_at, p.boot, p.pinned,
    coalesce((SELECT jsonb_agg(jsonb_build_object('kind', e.kind, 'holder', e.holder, 'until', json_instant(e.until))
        ORDER BY e.created_at) FROM reference e WHERE e.point_id = p.id AND e.until > now()), '[]') AS in_use_by
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
) d ON true
WHERE p.consolidated_at IS NULL;

-- As before, without points that were merged.
CREATE OR REPLACE VIEW v_job AS
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
                'points', (SELECT count(*) FROM boot_point b WHERE b.replica_id = r.id AND b.state = 'committed'
                    AND b.consolidated_at IS NULL),
                'points_limit', (wanted.target->>'points')::integer, 'state', r.state, 'standby', r.standby,
                'drift', r.drift) ORDER BY r.state = 'detached', h.name) AS targets
        FROM replica r
        JOIN host h ON h.id = r.host_id
        LEFT JOIN boot_point p ON p.id = r.head
        LEFT JOIN LATERAL (
            SELECT max(b.instant) AS instant FROM boot_point b
            WHERE b.replica_id = r.id AND b.state = 'committed' AND b.consolidated_at IS NULL
                AND b.boot->>'verdict' = 'boots'
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
