-- Tables of the store, the same in memory and in the file. Times are milliseconds since the epoch.
CREATE TABLE queue (
    number   INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,  -- of protocol 01, its latest sender's: 0 unknown, 1 original, 2 documented
    flushed  INTEGER NOT NULL,  -- messages up to this position were flushed
    paused   INTEGER NOT NULL   -- bits: 1 deliveries, 2 sends
);

CREATE TABLE message (
    number   INTEGER PRIMARY KEY,  -- by order of acceptance, never reused
    queue    INTEGER NOT NULL,
    position INTEGER NOT NULL,     -- order in the queue: the number, or a later one once re-queued; negative while delayed
    accepted INTEGER NOT NULL,
    expires  INTEGER,
    attempts INTEGER NOT NULL,
    crc      INTEGER NOT NULL,     -- CRC-32 of the body, mixed with the other columns
    body     BLOB NOT NULL
);

-- What only some messages, also dead ones, have.
CREATE TABLE extra (
    number   INTEGER PRIMARY KEY,  -- the message's
    queue    INTEGER NOT NULL,
    due      INTEGER NOT NULL,     -- when it becomes ready, its position is negative until then; 0 once it is
    key      TEXT,                 -- by which a second send of it is recognised
    headers  BLOB                  -- a JSON object of strings
);

CREATE TABLE dead (
    number   INTEGER PRIMARY KEY,
    queue    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    text     TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    died     INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    body     BLOB NOT NULL
);

-- Messages whose checksum was wrong when the file was loaded: set aside as they were found.
CREATE TABLE damaged (
    number, queue, position, accepted, expires, attempts, crc, body
);

-- The highest number that was accepted of each producer, so that a retry is not stored again.
CREATE TABLE producer (
    name     BLOB PRIMARY KEY,
    number   INTEGER NOT NULL,
    used     INTEGER NOT NULL      -- when it was last
) WITHOUT ROWID;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
