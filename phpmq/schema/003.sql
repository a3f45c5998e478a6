-- What was sent with a key, so that a second send of it is recognised also when its message is gone.
CREATE TABLE key (
    number   INTEGER PRIMARY KEY,  -- the message's
    queue    INTEGER NOT NULL,     -- to which it was sent
    accepted INTEGER NOT NULL,
    key      TEXT NOT NULL
);
INSERT INTO key SELECT number, message.queue, accepted, key FROM extra JOIN message USING (number)
    WHERE key IS NOT NULL AND message.queue IN (SELECT number FROM queue);

-- The keys of messages up to this number were forgotten.
ALTER TABLE queue ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
