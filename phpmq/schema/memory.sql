-- What only the database in memory needs: the file is written faster without, and they are quickly built when it is loaded.
CREATE INDEX message_order ON message (queue, position);
CREATE INDEX message_expiry ON message (expires) WHERE expires IS NOT NULL;
CREATE INDEX dead_queue ON dead (queue);  -- and by number, as every index
CREATE INDEX dead_reason ON dead (queue, reason);
CREATE INDEX extra_due ON extra (due) WHERE due > 0;
CREATE INDEX extra_key ON extra (queue, key) WHERE key IS NOT NULL;
CREATE INDEX key_order ON key (queue);  -- and by number, which each index has at its end
CREATE INDEX key_name ON key (queue, key);
