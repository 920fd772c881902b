-- Blind names, sealed values, and the numbers that order them. Nothing here says what a row is about.

CREATE TABLE keyring (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    key_check BLOB NOT NULL,
    wrapped BLOB NOT NULL
) STRICT;

CREATE TABLE record (
    position INTEGER PRIMARY KEY,
    space BLOB NOT NULL,
    key BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires INTEGER,
    term INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_by_key ON record (space, key);
CREATE INDEX record_by_position ON record (space, position);
CREATE INDEX record_by_expiry ON record (expires) WHERE expires IS NOT NULL;
CREATE INDEX record_by_term ON record (term);

CREATE TABLE index_value (
    value BLOB NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (value, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX index_value_by_position ON index_value (position);

CREATE TABLE run (
    log BLOB NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    term INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX run_by_first ON run (log, first);
CREATE INDEX run_by_term ON run (term);

CREATE TABLE change (
    sequence INTEGER PRIMARY KEY,
    term INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX change_by_term ON change (term);
