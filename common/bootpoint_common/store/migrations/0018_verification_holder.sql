-- Whose the hold on a verification is: a worker that was frozen for longer finds that another one has it, and writes nothing.
ALTER TABLE verification ADD COLUMN holder uuid;
