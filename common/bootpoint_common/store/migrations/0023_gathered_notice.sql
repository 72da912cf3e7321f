-- Letters to one reader that say the same of many jobs go as one.
ALTER TABLE notification ADD COLUMN about text;                                -- what such letters have in common
ALTER TABLE notification ADD COLUMN told_in uuid REFERENCES notification ON DELETE CASCADE;  -- the letter that holds it
CREATE INDEX notification_about ON notification (address, about, created_at) WHERE about IS NOT NULL;
CREATE INDEX notification_told_in ON notification (told_in) WHERE told_in IS NOT NULL;
