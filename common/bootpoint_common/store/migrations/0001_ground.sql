-- The truth of bootpoint. Every later change is a migration of its own; none is ever edited.

CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE host (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    kind text NOT NULL,
    address text NOT NULL,
    port integer NOT NULL,
    username text NOT NULL,
    fingerprint text,
    credentials bytea,                        -- encrypted with the installation's key
    settings jsonb NOT NULL DEFAULT '{}',
    pool text NOT NULL,
    max_open_points integer NOT NULL DEFAULT 8,
    state text NOT NULL DEFAULT 'unreachable',
    reason text,
    checked_at timestamptz,
    info jsonb
);

CREATE TABLE agent (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    pool text NOT NULL,
    key_id integer,
    key bytea,                                -- encrypted with the installation's key
    previous_key_id integer,
    previous_key bytea,
    join_secret bytea,                        -- encrypted; gone once it is spent
    join_expires_at timestamptz,
    machine jsonb,
    version text,
    incarnation uuid,
    incarnation_at timestamptz,
    counter bigint NOT NULL DEFAULT 0,
    runs jsonb NOT NULL DEFAULT '[]',         -- runs in hand at the last heartbeat
    last_seen_at timestamptz,
    inventory jsonb,
    inventory_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    revision integer NOT NULL,
    enabled boolean NOT NULL,
    agent_id uuid NOT NULL REFERENCES agent,
    spec jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE job_revision (
    job_id bigint NOT NULL REFERENCES job ON DELETE CASCADE,
    revision integer NOT NULL,
    spec jsonb NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, revision)
);

CREATE TABLE replica (
    id uuid PRIMARY KEY,
    job_id bigint REFERENCES job ON DELETE SET NULL,
    job_name text NOT NULL,
    host_id uuid NOT NULL REFERENCES host,
    pool text NOT NULL,
    state text NOT NULL DEFAULT 'ok' CHECK (state IN ('ok', 'broken', 'detached')),
    epoch integer NOT NULL DEFAULT 1,
    chain integer NOT NULL DEFAULT 1,
    head uuid,
    definition jsonb,                         -- the VM as it was made on the host, MACs included
    standby text NOT NULL DEFAULT 'off',
    drift text,
    writer bigint NOT NULL DEFAULT 0,
    writer_until timestamptz NOT NULL DEFAULT '-infinity',
    UNIQUE (job_id, host_id)
);

CREATE TABLE run (
    uid uuid PRIMARY KEY,
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    job_id bigint REFERENCES job ON DELETE SET NULL,
    job_name text NOT NULL,
    agent_id uuid NOT NULL REFERENCES agent,
    pool text NOT NULL,
    trigger text NOT NULL CHECK (trigger IN ('schedule', 'event', 'manual', 'catch_up', 'retry')),
    requested_by text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')),
    ending text CHECK (ending IN ('failed', 'cancelled')),   -- what it becomes once its points are gone
    reason text,
    message text,
    hint text,
    retryable boolean,
    attempt integer NOT NULL DEFAULT 1,
    due_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    expires_at timestamptz,                   -- the agent may not begin after this
    line text,                                -- why it still waits
    last_breath boolean NOT NULL DEFAULT false,
    consistency text,
    snapshot text,
    plan jsonb,
    scripts jsonb NOT NULL DEFAULT '[]',
    enqueued_at timestamptz
);
-- One run at a time for a job that waits, and for an agent that works.
CREATE UNIQUE INDEX run_one_a_job ON run (job_id) WHERE state IN ('waiting', 'running');
CREATE UNIQUE INDEX run_one_an_agent ON run (agent_id) WHERE state = 'running';
CREATE INDEX run_by_job ON run (job_id, id);

CREATE TABLE run_target (
    run_uid uuid NOT NULL REFERENCES run ON DELETE CASCADE,
    replica_id uuid NOT NULL REFERENCES replica ON DELETE CASCADE,
    host_id uuid NOT NULL REFERENCES host,
    reason text,
    PRIMARY KEY (run_uid, replica_id)
);

CREATE TABLE boot_point (
    id uuid PRIMARY KEY,
    replica_id uuid NOT NULL REFERENCES replica ON DELETE CASCADE,
    run_uid uuid NOT NULL REFERENCES run,
    sequence bigint NOT NULL,
    name text NOT NULL,
    state text NOT NULL CHECK (state IN
        ('offered', 'open', 'sealed', 'committing', 'committed', 'aborting', 'aborted')),
    kind text NOT NULL CHECK (kind IN ('full', 'increment')),
    reason text,                              -- why this kind
    problem jsonb,                            -- why it was aborted
    base uuid,
    offered_base jsonb,                       -- what the agent holds: {point_id, disks: {slot: {size_bytes, grain, root}}}
    epoch integer NOT NULL,
    chain integer NOT NULL,
    consistency text NOT NULL,
    instant timestamptz NOT NULL,
    incarnation uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    opened_at timestamptz,
    sealed_at timestamptz,
    committed_at timestamptz,
    ended_at timestamptz,
    progress_at timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz,
    damaged_at timestamptz,
    boot jsonb,
    pinned jsonb,
    enqueued_at timestamptz,
    UNIQUE (replica_id, sequence)
);
CREATE UNIQUE INDEX boot_point_name ON boot_point (replica_id, name) WHERE state <> 'aborted';
-- All but the final states exclude one another: a new point opens only when the abort on the host has finished.
CREATE UNIQUE INDEX boot_point_one_open ON boot_point (replica_id) WHERE state NOT IN ('committed', 'aborted');
CREATE UNIQUE INDEX boot_point_one_a_run ON boot_point (run_uid, replica_id);

CREATE TABLE boot_point_disk (
    id uuid PRIMARY KEY,
    point_id uuid NOT NULL REFERENCES boot_point ON DELETE CASCADE,
    slot text NOT NULL,
    position integer NOT NULL,
    size_bytes bigint NOT NULL,
    layer text,
    window_bytes bigint NOT NULL,
    writer bigint NOT NULL DEFAULT 0,
    writer_until timestamptz NOT NULL DEFAULT '-infinity',
    watermark_bytes bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL DEFAULT 0,
    chain_digest bytea,
    applied_bytes bigint NOT NULL DEFAULT 0,
    scanned_bytes bigint,
    changed_bytes bigint,
    wire_bytes bigint,
    stored_bytes bigint,
    credit_wait_seconds double precision NOT NULL DEFAULT 0,
    tracker text,
    fallback text,
    skipped jsonb,
    sealed_at timestamptz,
    read_digest bytea,
    applied_digest bytea,
    reread_digest bytea,
    verified_segments integer NOT NULL DEFAULT 0,   -- how far a verification has come
    idle integer NOT NULL DEFAULT 0,          -- slices in a row that found nothing
    failures integer NOT NULL DEFAULT 0,      -- slices in a row that failed
    gap_since timestamptz,
    enqueued_at timestamptz,
    workers jsonb NOT NULL DEFAULT '{}',      -- bytes applied by each worker process
    UNIQUE (point_id, slot)
);

CREATE TABLE segment (
    point_disk_id uuid NOT NULL REFERENCES boot_point_disk ON DELETE CASCADE,
    number integer NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (point_disk_id, number)
);

CREATE TABLE sample (
    point_disk_id uuid NOT NULL REFERENCES boot_point_disk ON DELETE CASCADE,
    grain bigint NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (point_disk_id, grain)
);

CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    actor text NOT NULL,
    origin text,
    job text,
    run bigint,
    point text,
    host text,
    agent text,
    code text,
    text text NOT NULL,
    details jsonb
);
CREATE INDEX event_at ON event (at);
CREATE FUNCTION event_is_for_ever() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'events are never changed'; END $$;
CREATE TRIGGER event_is_for_ever BEFORE UPDATE OR DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION event_is_for_ever();

CREATE TABLE request (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    addressee text NOT NULL,
    arguments jsonb NOT NULL DEFAULT '{}',
    secret bytea,                             -- encrypted; deleted with the answer
    state text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'answered', 'failed')),
    answer jsonb,
    error jsonb,
    requested_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text NOT NULL,
    kind text NOT NULL,
    pool text,                                -- a task for a pool's workers
    agent text,                               -- or a message for an agent
    payload bytea,
    not_before timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (subject, kind),                   -- a row is deleted once it is published
    CHECK ((pool IS NULL) <> (agent IS NULL))
);
CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('bootpoint_outbox', ''); RETURN NULL; END $$;
CREATE TRIGGER outbox_notify AFTER INSERT OR UPDATE ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();
CREATE INDEX outbox_due ON outbox (not_before);

CREATE TABLE process (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    pool text,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()
);
