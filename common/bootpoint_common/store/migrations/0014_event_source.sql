-- What happens to sources, a shutdown or a restart, as their agents or others say it; and the runs that follow from it.

CREATE TABLE source_event (
    id uuid PRIMARY KEY,
    agent_id uuid NOT NULL REFERENCES agent ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('shutdown', 'restart')),
    at timestamptz NOT NULL,
    said_by jsonb NOT NULL                    -- who said so, within a minute: ["agent erp-db: systemd", …]
);
CREATE INDEX source_event_newest ON source_event (agent_id, at DESC);

-- The jobs that wanted a run at an event. The run may be one that stood in the line already, or come later.
CREATE TABLE source_event_job (
    event_id uuid NOT NULL REFERENCES source_event ON DELETE CASCADE,
    job_id bigint NOT NULL REFERENCES job ON DELETE CASCADE,
    run_uid uuid REFERENCES run ON DELETE SET NULL,
    deadline_at timestamptz,                  -- when the machine is gone; NULL: it stays
    PRIMARY KEY (event_id, job_id)
);
CREATE INDEX source_event_job_newest ON source_event_job (job_id);
