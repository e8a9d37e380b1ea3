ALTER TABLE metarisk.drift_metric ADD COLUMN low DOUBLE PRECISION;
ALTER TABLE metarisk.drift_metric ADD COLUMN high DOUBLE PRECISION;
ALTER TABLE metarisk.drift_metric ADD COLUMN min_detectable_ratio DOUBLE PRECISION;

-- What happened to each alert: opened once, perhaps acknowledged or muted by a person, closed once.
CREATE TABLE metarisk.drift_alert (
    portfolio    TEXT        NOT NULL,
    seq          BIGINT      NOT NULL CHECK (seq >= 1),
    alert_id     TEXT        NOT NULL,
    as_of        DATE        NOT NULL,
    happened_at  TIMESTAMPTZ NOT NULL,
    event        TEXT        NOT NULL CHECK (event IN ('opened', 'acknowledged', 'muted', 'closed')),
    segment      TEXT,
    feature      TEXT,
    metric       TEXT        NOT NULL,
    status       TEXT        NOT NULL,
    detail       TEXT,
    told         TEXT        NOT NULL CHECK (told IN ('message', 'digest', 'nobody')),
    author       TEXT        NOT NULL,
    muted_until  DATE,
    run_id       TEXT,
    PRIMARY KEY (portfolio, seq)
);
