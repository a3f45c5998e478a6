-- What an operator set for a queue: a JSON object of the settings that are not as by default, empty for none.
ALTER TABLE queue ADD COLUMN settings TEXT NOT NULL DEFAULT '';
