-- What a run changed, kept with it: worked out from the disks of each run of each job, it took most of a list of jobs.
ALTER TABLE run ADD COLUMN changed_bytes bigint;   -- of the target where most was written; NULL: no point, or not known
UPDATE run r SET changed_bytes = n.changed_bytes FROM (
    SELECT run_uid, max(changed_bytes) AS changed_bytes FROM (
        SELECT p.run_uid, sum(d.changed_bytes)::bigint AS changed_bytes FROM boot_point p
        JOIN boot_point_disk d ON d.point_id = p.id WHERE p.state = 'committed' GROUP BY p.id
    ) AS of_point GROUP BY run_uid
) AS n WHERE n.run_uid = r.uid;
CREATE INDEX run_trend ON run (job_id, id) INCLUDE (changed_bytes) WHERE changed_bytes IS NOT NULL;

-- The view as it is, with the trend from there. Whatever was added to it stays.
DO $$
DECLARE
    old text := pg_get_viewdef('v_job'::regclass);
    new text := regexp_replace(old, '\( SELECT r\.id,\s+max\(v\.changed_bytes\) AS changed_bytes\s.*?LIMIT 14\) n\)',
        '(SELECT r.id, r.changed_bytes FROM run r WHERE r.job_id = j.id AND r.changed_bytes IS NOT NULL'
        ' ORDER BY r.id DESC LIMIT 14) n)');
BEGIN
    IF new = old THEN
        RAISE EXCEPTION 'v_job works out no trend';
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW v_job AS ' || new;
END
$$;
