-- One partition a month, made by the first append of its month. The key leads with run_id, by which views join.
CREATE TABLE metarisk.risk_score (
    run_id         TEXT             NOT NULL,
    portfolio      TEXT             NOT NULL,
    as_of          DATE             NOT NULL,
    entity         TEXT             NOT NULL,
    target         TEXT             NOT NULL,
    segment        TEXT             NOT NULL,
    status         TEXT             NOT NULL,
    score          DOUBLE PRECISION NOT NULL,
    score_low      DOUBLE PRECISION,
    score_high     DOUBLE PRECISION,
    grade          TEXT,
    points         DOUBLE PRECISION,
    reasons        TEXT,
    adaptation_id  TEXT,
    PRIMARY KEY (run_id, entity, target, as_of)
) PARTITION BY RANGE (as_of);

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
    parameters      TEXT,
    PRIMARY KEY (run_id, segment)
);
CREATE INDEX adaptation_by_segment ON metarisk.adaptation (portfolio, segment, as_of);
