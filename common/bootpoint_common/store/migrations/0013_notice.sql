-- What people are told: written in the transaction that makes it true, sent by any process.

CREATE TABLE notification (
    id uuid PRIMARY KEY,
    channel text NOT NULL CHECK (channel IN ('mail', 'webhook')),
    address text NOT NULL,                    -- of one reader, or a URL
    kind text NOT NULL,                       -- run_failed, objective_broken, digest ...
    job text,
    run bigint,
    message_id text NOT NULL UNIQUE,          -- the same at every attempt, so that a reader knows what arrives twice
    facts jsonb NOT NULL,                     -- as they were; a webhook's body as it stands
    secret_file text,                         -- where the secret is, never what it is
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'failed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    not_before timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,      -- also who works on it: only the latest attempt may say how it went
    held_until timestamptz,                   -- a process sends it now
    ended_at timestamptz,
    problem text                              -- what the last attempt met
);
CREATE INDEX notification_waiting ON notification (channel, not_before) WHERE state = 'waiting';
CREATE INDEX notification_told ON notification (job, kind, created_at);
CREATE INDEX notification_ended ON notification (ended_at) WHERE state <> 'waiting';
CREATE FUNCTION notification_notify() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('bootpoint_notice', ''); RETURN NULL; END $$;
CREATE TRIGGER notification_notify AFTER UPDATE ON notification
    FOR EACH STATEMENT EXECUTE FUNCTION notification_notify();

-- Who has had the digest of which day, in the zone of the digest's hour.
CREATE TABLE digest_day (
    address text NOT NULL,
    day date NOT NULL,
    PRIMARY KEY (address, day)
);

-- Objectives that are broken, each told once.
CREATE TABLE objective_broken (
    job_id bigint NOT NULL REFERENCES job ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('point', 'bootable')),
    since timestamptz NOT NULL,
    PRIMARY KEY (job_id, kind)
);
