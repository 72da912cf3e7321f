-- A standby that was reverted stands on a point of its own until it is let go.

ALTER TABLE replica ADD COLUMN held uuid REFERENCES boot_point ON DELETE SET NULL;

-- The view as it is, and for each target the point that its standby was reverted to. Whatever was added to it stays.
DO $$
DECLARE
    old text := pg_get_viewdef('v_job'::regclass);
    new text := replace(old, '''standby'', r.standby,',
        '''standby'', r.standby, ''held'', (SELECT g.name FROM boot_point g WHERE g.id = r.held),');
BEGIN
    IF new = old THEN
        RAISE EXCEPTION 'v_job shows no standby';
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW v_job AS ' || new;
END
$$;
