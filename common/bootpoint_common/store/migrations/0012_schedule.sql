-- Runs that start by themselves, pauses, and the line in which runs wait for their places.

-- What will start by itself. Whoever locks a row (FOR UPDATE SKIP LOCKED) deals with it: no process leads.
CREATE TABLE due (
    job_id bigint NOT NULL REFERENCES job ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('schedule', 'retry', 'catch_up', 'event')),
    at timestamptz NOT NULL,
    until timestamptz,                        -- it isn't started after this; NULL: however late
    details jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (job_id, kind)
);
CREATE INDEX due_at ON due (at);

ALTER TABLE job ADD COLUMN planned boolean NOT NULL DEFAULT false;   -- due says what its schedules say
ALTER TABLE job ADD COLUMN paused_until timestamptz;
ALTER TABLE job ADD COLUMN pause_reason text;
ALTER TABLE job ADD COLUMN paused_by text;
CREATE INDEX job_unplanned ON job (id) WHERE NOT planned;
CREATE INDEX job_paused ON job (paused_until) WHERE paused_until IS NOT NULL;

-- A waiting run stands in the line while enqueued_at is NULL; else it has been promised its places, and a worker
-- looks whether it may begin.
ALTER TABLE run ADD COLUMN look_at timestamptz;   -- it is passed over until then: what it waits for is no place
ALTER TABLE run ADD COLUMN begin_by timestamptz;  -- a run that hasn't begun by then is not begun any more
CREATE INDEX run_line ON run (last_breath DESC, due_at, id) WHERE state = 'waiting';

-- Whoever admits runs is told of a longer line and of a place that is free again.
CREATE FUNCTION run_notify() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('bootpoint_line', ''); RETURN NULL; END $$;
CREATE TRIGGER run_notify AFTER INSERT OR UPDATE OF state, line ON run
    FOR EACH STATEMENT EXECUTE FUNCTION run_notify();

-- As before, with pauses, with the time of the next run, and without skipped runs as the last one.
CREATE OR REPLACE VIEW v_job AS
SELECT s.id, s.name, s.revision, s.enabled,
    CASE WHEN NOT s.enabled THEN 'disabled' WHEN s.paused THEN 'paused' WHEN s.drift IS NOT NULL THEN 'drift'
         WHEN s.broken OR s.last_state = 'failed' THEN 'failing' WHEN s.newest IS NULL THEN 'never'
         WHEN s.age > s.objective_point THEN 'late' ELSE 'ok' END AS state,
    CASE WHEN NOT s.enabled THEN NULL WHEN s.paused THEN s.pause_reason WHEN s.drift IS NOT NULL THEN 'drift'
         WHEN s.broken THEN 'layer_lost' WHEN s.last_state = 'failed' THEN s.last_reason END AS state_reason,
    jsonb_build_object('point', s.objective_point, 'bootable', s.objective_bootable) AS objective_seconds,
    s.age AS newest_point_age_seconds, s.bootable_age AS newest_bootable_point_age_seconds,
    s.next_run_at, NULL::jsonb AS next_run, s.last_run, s.running, s.source, s.targets,
    s.unprotected_disks, s.trend_changed_bytes, s.spec
FROM (
    SELECT j.id, j.name, j.revision, j.enabled, j.spec,
        coalesce(j.paused_until > now(), false) AS paused, j.pause_reason,
        CASE WHEN j.enabled THEN (SELECT min(d.at) FROM due d WHERE d.job_id = j.id) END AS next_run_at,
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
        SELECT id, state, reason, ended_at FROM run WHERE job_id = j.id AND ended_at IS NOT NULL
            AND state <> 'skipped' ORDER BY id DESC LIMIT 1
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
                'held', (SELECT g.name FROM boot_point g WHERE g.id = r.held), 'drift', r.drift) ORDER BY r.state = 'detached', h.name) AS targets
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
