-- Replicas that were deleted with their job: they rest on their hosts, and go for good after a while.
--
-- moving ──► resting ──► purging ──► the row is deleted
--               └──► taken back: the row is deleted
-- What is wanted is written before the host is touched.
CREATE TABLE trash (
    id uuid PRIMARY KEY,                      -- the replica's
    job_name text NOT NULL,
    host_id uuid NOT NULL REFERENCES host,
    pool text NOT NULL,
    definition jsonb NOT NULL,                -- the VM as it was made on the host
    points integer NOT NULL,
    stored_bytes bigint NOT NULL,
    state text NOT NULL DEFAULT 'moving' CHECK (state IN ('moving', 'resting', 'purging')),
    deleted_by text NOT NULL,
    deleted_at timestamptz NOT NULL,
    purge_at timestamptz,                     -- NULL as long as it isn't in its host's trash
    problem jsonb,                            -- what the last step met, as an error's JSON
    writer bigint NOT NULL DEFAULT 0,
    writer_until timestamptz NOT NULL DEFAULT '-infinity',
    enqueued_at timestamptz
);
CREATE INDEX trash_host ON trash (host_id);
