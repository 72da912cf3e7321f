-- VMs started from points beside the standby: tests of people, and boot checks.
--
-- waiting ──► starting ──► running ──► ending ──► ended
--    └───────────┴───────────────────────┘
-- A check waits for a place on its host. What is wanted is written before the host is touched.
CREATE TABLE test_vm (
    id uuid PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    replica_id uuid NOT NULL REFERENCES replica ON DELETE CASCADE,
    point_id uuid NOT NULL REFERENCES boot_point ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('test', 'check')),
    state text NOT NULL CHECK (state IN ('waiting', 'starting', 'running', 'ending', 'ended')),
    reference uuid,                           -- holds the point for as long as the VM may exist
    conversion text NOT NULL,
    for_seconds double precision NOT NULL,    -- it ends by itself so long after its start
    requested_by text NOT NULL,
    automatic boolean NOT NULL DEFAULT false, -- a check that was due, not one that somebody asked for
    created_at timestamptz NOT NULL DEFAULT now(),
    placed_at timestamptz,                    -- when it got its place
    touched boolean NOT NULL DEFAULT false,   -- the host may have something of it
    started_at timestamptz,
    until timestamptz,
    ended_at timestamptz,
    ending text,                              -- why it ends, for people
    problem jsonb,                            -- what the last step met, as an error's JSON
    seen jsonb,                               -- what a check remembers of earlier looks
    picture bytea,                            -- the last picture that it saw, PNG
    boot jsonb,                               -- its verdict, as in boot_point
    writer bigint NOT NULL DEFAULT 0,
    writer_until timestamptz NOT NULL DEFAULT '-infinity',
    enqueued_at timestamptz
);
CREATE UNIQUE INDEX test_vm_one_check ON test_vm (point_id) WHERE kind = 'check' AND state <> 'ended';
CREATE INDEX test_vm_open ON test_vm (replica_id) WHERE state <> 'ended';

-- The picture of a point's last boot check.
CREATE TABLE boot_picture (
    point_id uuid PRIMARY KEY REFERENCES boot_point ON DELETE CASCADE,
    png bytea NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);

-- When a replica's newest point is checked again, and why it wasn't the last time.
CREATE TABLE boot_plan (
    replica_id uuid PRIMARY KEY REFERENCES replica ON DELETE CASCADE,
    not_before timestamptz NOT NULL,
    skipped jsonb,                            -- {"code", "message", "at", "point"}; NULL once a check was made
    said_code text,                           -- what the history was told last
    said_at timestamptz
);
