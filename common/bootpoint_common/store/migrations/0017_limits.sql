-- What all workers together may still send to the hosts of a job: a token bucket that they share. It is worth nothing
-- after a crash, so it needs no log.
CREATE UNLOGGED TABLE network_bucket (
    job_id bigint PRIMARY KEY REFERENCES job ON DELETE CASCADE,
    tokens double precision NOT NULL,         -- bytes; negative: taken already and to be waited for
    rate double precision NOT NULL,           -- bytes a second, as it was when the bucket was last used
    filled_at timestamptz NOT NULL
);

-- Whether the end of a run waits for what the agent says of the script after the point.
ALTER TABLE run ADD COLUMN reports boolean NOT NULL DEFAULT false;
