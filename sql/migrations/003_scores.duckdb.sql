-- No keys here: DuckDB keeps the index of a key in memory. Nights are appended in order, which clusters by as_of.
CREATE TABLE metarisk.risk_score (
    run_id         TEXT   NOT NULL,
    portfolio      TEXT   NOT NULL,
    as_of          DATE   NOT NULL,
    entity         TEXT   NOT NULL,
    target         TEXT   NOT NULL,
    segment        TEXT   NOT NULL,
    status         TEXT   NOT NULL,
    score          DOUBLE NOT NULL,
    score_low      DOUBLE,
    score_high     DOUBLE,
    grade          TEXT,
    points         DOUBLE,
    reasons        TEXT,
    adaptation_id  TEXT
);

CREATE TABLE metarisk.adaptation (
    run_id          TEXT   NOT NULL,
    adaptation_id   TEXT   NOT NULL,
    model_id        TEXT   NOT NULL,
    portfolio       TEXT   NOT NULL,
    as_of           DATE   NOT NULL,
    segment         TEXT   NOT NULL,
    status          TEXT   NOT NULL,
    reason          TEXT,
    support_rows    BIGINT NOT NULL,
    support_events  BIGINT,
    support_hash    TEXT,
    parameters      TEXT
);
