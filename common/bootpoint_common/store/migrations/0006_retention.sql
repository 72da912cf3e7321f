-- Which points of a replica go, and what keeps them.

-- 1 in the metric of that name: at the next run no point may go, though one would have to.
ALTER TABLE replica ADD COLUMN retention_blocked boolean NOT NULL DEFAULT false;
-- What the last attempt to merge a point met, until one succeeds: {"point", "code", "message", "at"}.
ALTER TABLE replica ADD COLUMN consolidation_waits jsonb;
-- When the reaper last sent the task.
ALTER TABLE replica ADD COLUMN consolidation_enqueued_at timestamptz;
