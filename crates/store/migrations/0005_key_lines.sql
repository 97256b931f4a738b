-- Keys that follow others by rotation. A line is named by its first key, which has no row here. Budgets on a key count
-- all keys of its line; rows outlive their keys, as what was spent does.

CREATE TABLE key_line (
    key_id TEXT NOT NULL PRIMARY KEY,
    line_id TEXT NOT NULL
);
CREATE INDEX key_line_members ON key_line (line_id);
