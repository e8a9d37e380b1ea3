CREATE TABLE metarisk.drift_metric (
    run_id     TEXT NOT NULL,
    portfolio  TEXT NOT NULL,
    as_of      DATE NOT NULL,
    segment    TEXT,
    level      TEXT NOT NULL,
    feature    TEXT,
    metric     TEXT NOT NULL,
    value      DOUBLE PRECISION,
    effect     DOUBLE PRECISION,
    threshold  DOUBLE PRECISION,
    n_ref      BIGINT,
    n_cur      BIGINT,
    p          DOUBLE PRECISION,
    q          DOUBLE PRECISION,
    status     TEXT NOT NULL,
    detail     TEXT
);

CREATE TABLE metarisk.quality_result (
    run_id        TEXT,
    attempt_id    TEXT    NOT NULL,
    portfolio     TEXT    NOT NULL,
    as_of         DATE    NOT NULL,
    suite         TEXT    NOT NULL,
    rule          TEXT    NOT NULL,
    column_name   TEXT,
    severity      TEXT    NOT NULL,
    success       BOOLEAN NOT NULL,
    failing_rows  BIGINT,
    total_rows    BIGINT,
    detail        TEXT,
    quarantine    TEXT
);

CREATE TABLE metarisk.outcome (
    portfolio   TEXT             NOT NULL,
    entity      TEXT             NOT NULL,
    target      TEXT             NOT NULL,
    event_date  DATE,
    known_date  DATE             NOT NULL,
    value       DOUBLE PRECISION NOT NULL
);

CREATE TABLE metarisk.evidence (
    model_id   TEXT NOT NULL,
    portfolio  TEXT NOT NULL,
    as_of      DATE NOT NULL,
    protocol   TEXT NOT NULL,
    candidate  TEXT NOT NULL,
    slice      TEXT NOT NULL,
    metric     TEXT NOT NULL,
    value      DOUBLE PRECISION,
    low        DOUBLE PRECISION,
    high       DOUBLE PRECISION,
    rows       BIGINT,
    events     BIGINT,
    note       TEXT
);
