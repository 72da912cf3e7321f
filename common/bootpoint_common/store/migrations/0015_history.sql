-- The history at a million rows, what a report needs of jobs that are gone, and logs of runs that end some day.

-- `history` sorts by any of these columns, from either end, and the instant stands in every index, so that a page is
-- found without the rows that it passes over. NULLS FIRST: what an event doesn't have sorts before everything, and read
-- backwards it comes last.
DROP INDEX event_at;
DROP INDEX event_job;
DROP INDEX event_run;
CREATE INDEX event_by_id ON event (id, at);
CREATE INDEX event_by_time ON event (at, id);
CREATE INDEX event_by_kind ON event (kind NULLS FIRST, at, id);
CREATE INDEX event_by_actor ON event (actor NULLS FIRST, at, id);
CREATE INDEX event_by_origin ON event (origin NULLS FIRST, at, id);
CREATE INDEX event_by_job ON event (job NULLS FIRST, at, id);
CREATE INDEX event_by_run ON event (run NULLS FIRST, at, id);
CREATE INDEX event_by_host ON event (host NULLS FIRST, at, id);
CREATE INDEX event_by_code ON event (code NULLS FIRST, at, id);
-- Rows are only added. What vacuum hasn't seen has to be looked up in the table for every row that is passed over.
ALTER TABLE event SET (autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.01);

-- How many events each hour has, of hours that are over: how many pages there are is a sum over few rows. An hour
-- without any has no row, but the newest that was counted always has one: what comes after it is counted when asked.
CREATE TABLE event_hour (
    hour timestamptz PRIMARY KEY,             -- when it begins, UTC
    events bigint NOT NULL
);

-- Which event stands at a place of a sort, at every so many: `store/milestone.py`.
CREATE TABLE event_milestone (
    sort text NOT NULL,
    place bigint NOT NULL,                    -- how many events sort before it, of those before until
    value text,                               -- of the column that leads the sort
    at timestamptz NOT NULL,
    id bigint NOT NULL,
    until timestamptz NOT NULL,               -- later events weren't there
    PRIMARY KEY (sort, place)
);

-- Revisions stay when their job goes: what its objective was belongs to the history. Numbers of jobs are never used again.
ALTER TABLE job_revision DROP CONSTRAINT job_revision_job_id_fkey;

-- Which jobs a machine has: asked for each machine, and each of its disks.
CREATE INDEX job_agent ON job (agent_id);

-- What scripts of a run wrote is kept for a time; when it was cleared.
ALTER TABLE run ADD COLUMN log_cleared_at timestamptz;
CREATE INDEX run_log ON run (ended_at) WHERE log_cleared_at IS NULL AND scripts <> '[]';

-- As it is, and how much of its disks was read for a point.
DO $$
DECLARE
    old text := pg_get_viewdef('v_boot_point'::regclass);
    new text := replace(old, ' AS in_use_by', ' AS in_use_by, (SELECT sum(x.scanned_bytes)::bigint
        FROM boot_point_disk x WHERE x.point_id = p.id) AS scanned_bytes');
BEGIN
    IF new = old THEN
        RAISE EXCEPTION 'v_boot_point shows no use';
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW v_boot_point AS ' || new;
END
$$;
