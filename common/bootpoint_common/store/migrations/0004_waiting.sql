-- What a point's next step met on its host, while it is tried again; NULL: nothing.
ALTER TABLE boot_point ADD COLUMN waits_for text;

-- Which of the 63 messages before an agent's newest have come: bit n stands for counter - 1 - n.
ALTER TABLE agent ADD COLUMN counters_seen bigint NOT NULL DEFAULT 0;

-- History and reports ask by job and by run.
CREATE INDEX event_job ON event (job, at);
CREATE INDEX event_run ON event (run);

-- Looked at every few seconds: credentials of questions that nobody answered.
CREATE INDEX request_secret ON request (expires_at) WHERE secret IS NOT NULL;

-- As before, and the reason of a target says also what an unfinished point waits for.
CREATE OR REPLACE VIEW v_run AS
SELECT r.id, r.job_name AS job, r.trigger, r.requested_by, r.state, r.reason, r.message, r.hint, r.retryable, r.attempt,
    r.due_at, r.started_at, r.ended_at, r.plan, r.consistency, coalesce(t.targets, '[]') AS targets, r.scripts
FROM run r
JOIN agent a ON a.id = r.agent_id
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('host', h.name, 'point', p.name, 'state', p.state,
        'reason', coalesce(x.reason, p.problem->>'code', p.waits_for), 'disks', coalesce(d.disks, '[]'))
        ORDER BY h.name) AS targets
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
