-- Verifications, what they found, what they read of a host in a day; and points that are taken over from a host.

CREATE TABLE verification (
    id uuid PRIMARY KEY,
    point_id uuid NOT NULL REFERENCES boot_point ON DELETE CASCADE,
    requested_by text NOT NULL,
    budgeted boolean NOT NULL,                -- held back by the host's bytes a day
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    result text CHECK (result IN ('verified', 'damaged', 'failed')),
    problem jsonb,                            -- why it failed
    waits_for text,                           -- budget, consolidation, or the code of what the host answered
    not_before timestamptz NOT NULL DEFAULT now(),
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    held_until timestamptz NOT NULL DEFAULT '-infinity'   -- a worker reads now
);
CREATE UNIQUE INDEX verification_one_a_point ON verification (point_id) WHERE ended_at IS NULL;
CREATE INDEX verification_point ON verification (point_id, ended_at);

-- Segments of a committed point that don't read back as the source was.
CREATE TABLE damage (
    point_id uuid NOT NULL REFERENCES boot_point ON DELETE CASCADE,
    slot text NOT NULL,
    segment integer NOT NULL,
    grains bigint[],                          -- which of its grains, counted from the disk's start; NULL: not known
    found_at timestamptz NOT NULL DEFAULT now(),
    said boolean NOT NULL DEFAULT false,      -- the history has it
    PRIMARY KEY (point_id, slot, segment)
);

-- A point is damaged as long as nothing newer says that it reads back right.
CREATE FUNCTION is_damaged(damaged_at timestamptz, verified_at timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT damaged_at IS NOT NULL AND (verified_at IS NULL OR damaged_at >= verified_at)
$$;

CREATE TABLE verify_day (
    host_id uuid NOT NULL REFERENCES host ON DELETE CASCADE,
    day date NOT NULL,                        -- UTC
    read_bytes bigint NOT NULL DEFAULT 0,
    shown boolean NOT NULL DEFAULT false,     -- the history says that it is used up
    PRIMARY KEY (host_id, day)
);

-- A replica on a host whose points the database takes over: one at a time, resumable.
CREATE TABLE adoption (
    id uuid PRIMARY KEY,
    host_id uuid NOT NULL REFERENCES host ON DELETE CASCADE,
    replica_id uuid NOT NULL,                 -- as the host's journal has it
    requested_by text NOT NULL,
    plan jsonb NOT NULL,                      -- points to be taken over: [{"point_id", "sequence"}], the head first
    done jsonb NOT NULL DEFAULT '[]',         -- names of those that are
    state text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'done', 'failed')),
    problem jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    enqueued_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX adoption_one_a_replica ON adoption (replica_id) WHERE state = 'asked';

-- Digests that were read of a point that is being taken over.
CREATE TABLE adoption_segment (
    adoption_id uuid NOT NULL REFERENCES adoption ON DELETE CASCADE,
    point_id uuid NOT NULL,
    slot text NOT NULL,
    number integer NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (adoption_id, point_id, slot, number)
);
