CREATE TABLE metarisk.model (
    model_id      TEXT        NOT NULL PRIMARY KEY,
    portfolio     TEXT        NOT NULL,
    as_of         DATE        NOT NULL,
    recipe        TEXT        NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL,
    path          TEXT        NOT NULL,
    metrics       TEXT,
    config_hash   TEXT        NOT NULL,
    code_version  TEXT        NOT NULL
);

CREATE TABLE metarisk.model_state (
    model_id   TEXT        NOT NULL,
    portfolio  TEXT        NOT NULL,
    seq        INTEGER     NOT NULL CHECK (seq >= 1),
    state      TEXT        NOT NULL CHECK (state IN ('candidate', 'approved', 'champion', 'retired')),
    since      TIMESTAMPTZ NOT NULL,
    by_whom    TEXT        NOT NULL,
    reason     TEXT,
    PRIMARY KEY (model_id, seq)
);
