-- A champion that a person took back: no night uses it any more. DuckDB cannot change a constraint.
CREATE TABLE metarisk.model_state_new (
    model_id   TEXT        NOT NULL,
    portfolio  TEXT        NOT NULL,
    seq        INTEGER     NOT NULL CHECK (seq >= 1),
    state      TEXT        NOT NULL CHECK (state IN ('candidate', 'approved', 'champion', 'retired', 'withdrawn')),
    since      TIMESTAMPTZ NOT NULL,
    by_whom    TEXT        NOT NULL,
    reason     TEXT,
    PRIMARY KEY (model_id, seq)
);
INSERT INTO metarisk.model_state_new SELECT * FROM metarisk.model_state;
DROP TABLE metarisk.model_state;
ALTER TABLE metarisk.model_state_new RENAME TO model_state;
