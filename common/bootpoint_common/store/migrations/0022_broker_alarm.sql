-- Since when the broker has taken nothing from a process (an alarm of its memory or its disk).
ALTER TABLE process ADD COLUMN broker_blocked_at timestamptz;
