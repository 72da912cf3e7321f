-- A final point's streams are deleted after its last transaction; where the broker was away then, the reaper does it.
ALTER TABLE boot_point_disk ADD COLUMN stream_deleted_at timestamptz;
