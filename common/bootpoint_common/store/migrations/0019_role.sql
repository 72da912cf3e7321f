-- What the rights of PostgreSQL roles stand on; the roles themselves are made by `bootpoint db roles`, for whoever migrates
-- need not be allowed to make roles. See store/role.py.

-- A scheduler has to know whether there are credentials, and needs no more of them.
ALTER TABLE host ADD COLUMN has_credentials boolean NOT NULL GENERATED ALWAYS AS (credentials IS NOT NULL) STORED;

-- A worker that takes over a host's replica gives the job's row the id that the host knows. It may not delete the row.
ALTER TABLE run_target DROP CONSTRAINT run_target_replica_id_fkey,
    ADD FOREIGN KEY (replica_id) REFERENCES replica ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE boot_point DROP CONSTRAINT boot_point_replica_id_fkey,
    ADD FOREIGN KEY (replica_id) REFERENCES replica ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE test_vm DROP CONSTRAINT test_vm_replica_id_fkey,
    ADD FOREIGN KEY (replica_id) REFERENCES replica ON DELETE CASCADE ON UPDATE CASCADE;
ALTER TABLE boot_plan DROP CONSTRAINT boot_plan_replica_id_fkey,
    ADD FOREIGN KEY (replica_id) REFERENCES replica ON DELETE CASCADE ON UPDATE CASCADE;
