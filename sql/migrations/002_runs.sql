CREATE TABLE metarisk.run (
    run_id              TEXT    NOT NULL PRIMARY KEY,
    portfolio           TEXT    NOT NULL,
    as_of               DATE    NOT NULL,
    mode                TEXT    NOT NULL CHECK (mode IN ('nightly', 'backfill', 'restatement')),
    reason              TEXT,
    model_id            TEXT,
    extract_hash        TEXT    NOT NULL,
    config_hash         TEXT    NOT NULL,
    code_version        TEXT    NOT NULL,
    rows_extracted      BIGINT  NOT NULL,
    rows_scored         BIGINT  NOT NULL,
    rows_quarantined    BIGINT  NOT NULL,
    segments_adapted    INTEGER NOT NULL,
    segments_carried    INTEGER NOT NULL,
    segments_abstained  INTEGER NOT NULL,
    segments_fallback   INTEGER NOT NULL,
    model_age_days      INTEGER,
    manifest            TEXT    NOT NULL
);

CREATE TABLE metarisk.run_attempt (
    attempt_id    TEXT        NOT NULL PRIMARY KEY,
    run_id        TEXT,
    portfolio     TEXT        NOT NULL,
    as_of         DATE        NOT NULL,
    mode          TEXT        NOT NULL,
    step          TEXT,
    started_at    TIMESTAMPTZ NOT NULL,
    ended_at      TIMESTAMPTZ NOT NULL,
    host          TEXT        NOT NULL,
    pid           INTEGER     NOT NULL,
    outcome       TEXT        NOT NULL,
    error         TEXT,
    step_seconds  TEXT
);

-- The highest seq of a portfolio and as_of is current. Two publications of a portfolio never share an instant, so that
-- every question "as known at" has one answer.
CREATE TABLE metarisk.publication (
    portfolio     TEXT        NOT NULL,
    as_of         DATE        NOT NULL,
    seq           INTEGER     NOT NULL CHECK (seq >= 1),
    run_id        TEXT        NOT NULL,
    published_at  TIMESTAMPTZ NOT NULL,
    reason        TEXT,
    PRIMARY KEY (portfolio, as_of, seq),
    UNIQUE (portfolio, published_at)
);
