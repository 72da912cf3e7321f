-- Disks that no job protects, and which of them the history has told already.

-- What an agent says of each of its disks that can be protected and is in no job: an item of its list.
CREATE FUNCTION unprotected_disks(of_agent uuid) RETURNS SETOF jsonb LANGUAGE sql STABLE AS $$
    SELECT item FROM agent a, LATERAL jsonb_array_elements(coalesce(a.inventory->'items', '[]')) AS item
    WHERE a.id = of_agent AND (item->>'eligible')::boolean AND NOT EXISTS (
        SELECT 1 FROM job k WHERE k.agent_id = a.id AND (jsonb_typeof(k.spec #> '{source,disks}') IS DISTINCT FROM 'array'
            OR EXISTS (SELECT 1 FROM jsonb_array_elements(k.spec #> '{source,disks}') AS disk
                WHERE disk->>'id' = item->>'id')))
$$;

CREATE TABLE unprotected_disk (
    agent_id uuid NOT NULL REFERENCES agent ON DELETE CASCADE,
    disk_id text NOT NULL,                    -- as in a job file: serial:…
    since timestamptz NOT NULL DEFAULT now(), -- when it was noticed, and the event written
    PRIMARY KEY (agent_id, disk_id)
);
