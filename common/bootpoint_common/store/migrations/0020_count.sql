-- What metrics count, summed over all processes: `store/count.py`. What metrics read of other tables: `store/gauge.py`.

CREATE TABLE metric_count (
    metric text NOT NULL,
    labels jsonb NOT NULL,                    -- values of its labels in their order; of a histogram its bound, or "sum"
    shard integer NOT NULL,                   -- transactions that count at the same time do so in different rows
    value double precision NOT NULL,
    PRIMARY KEY (metric, labels, shard)
) WITH (fillfactor = 50);                     -- updated all the time: new versions find room beside the old ones

-- Runs were counted by their rows until now: the counters go on from there.
INSERT INTO metric_count (metric, labels, shard, value)
SELECT 'run_total', jsonb_build_array(state, coalesce(reason, '')), 0, count(*)
FROM run WHERE ended_at IS NOT NULL GROUP BY 2;
INSERT INTO metric_count (metric, labels, shard, value)
SELECT 'run_duration_seconds', jsonb_build_array(bound), 0, count(*)
FROM (SELECT extract(epoch FROM ended_at - started_at)::double precision AS seconds FROM run
      WHERE ended_at IS NOT NULL AND started_at IS NOT NULL) AS ended,
LATERAL (SELECT coalesce(
    (SELECT b || '.0' FROM unnest(ARRAY[5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800]) AS b
     WHERE seconds <= b ORDER BY b LIMIT 1), '+Inf') AS bound) AS first_above
GROUP BY bound;
INSERT INTO metric_count (metric, labels, shard, value)
SELECT 'run_duration_seconds', '["sum"]', 0, sum(extract(epoch FROM ended_at - started_at)) FROM run
WHERE ended_at IS NOT NULL AND started_at IS NOT NULL HAVING count(*) > 0;

-- Which points a replica has, and which of them were proven to boot: read for every replica at once.
CREATE INDEX boot_point_kept ON boot_point (replica_id) WHERE state = 'committed' AND consolidated_at IS NULL;
CREATE INDEX boot_point_bootable ON boot_point (replica_id, instant)
    WHERE state = 'committed' AND consolidated_at IS NULL AND boot->>'verdict' = 'boots';

-- When the trace of a run was told (OpenTelemetry), by one process.
ALTER TABLE run ADD COLUMN traced_at timestamptz;
CREATE INDEX run_untraced ON run (ended_at) WHERE traced_at IS NULL;

-- A worker may serve several pools; and where Prometheus reads its metrics, ADDRESS:PORT.
ALTER TABLE process ADD COLUMN pools text[] NOT NULL DEFAULT '{}';
ALTER TABLE process ADD COLUMN metrics text;
UPDATE process SET pools = ARRAY[pool] WHERE pool IS NOT NULL;
