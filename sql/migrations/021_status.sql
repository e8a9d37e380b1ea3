-- An attempt that begins; its end is a row of run_attempt. One without is running, or has died.
CREATE TABLE metarisk.attempt_start (
    attempt_id  TEXT        NOT NULL PRIMARY KEY,
    job         TEXT        NOT NULL CHECK (job IN ('night', 'week')),
    portfolio   TEXT        NOT NULL,
    as_of       DATE        NOT NULL,
    mode        TEXT        NOT NULL,
    started_at  TIMESTAMPTZ NOT NULL,
    host        TEXT        NOT NULL,
    pid         INTEGER     NOT NULL
);

-- What an attempt read of a portfolio's TOML and of the schedule, appended where it is another than before: by it the
-- warehouse knows which nights are due. The highest seq holds.
CREATE TABLE metarisk.portfolio (
    portfolio           TEXT        NOT NULL,
    seq                 INTEGER     NOT NULL CHECK (seq >= 1),
    told_at             TIMESTAMPTZ NOT NULL,
    title               TEXT        NOT NULL,
    timezone            TEXT        NOT NULL,
    calendar            TEXT        NOT NULL,
    catch_up            TEXT        NOT NULL,
    scheduled           BOOLEAN     NOT NULL,
    start_minute        INTEGER     NOT NULL,
    start_timezone      TEXT        NOT NULL,
    grace_minutes       INTEGER     NOT NULL,
    max_model_age_days  INTEGER     NOT NULL,
    PRIMARY KEY (portfolio, seq)
);

-- The dates of a calendar that is a table, as attempts read them. The highest seq of a date says whether it is due.
CREATE TABLE metarisk.calendar_date (
    portfolio  TEXT    NOT NULL,
    as_of      DATE    NOT NULL,
    seq        INTEGER NOT NULL CHECK (seq >= 1),
    due        BOOLEAN NOT NULL,
    PRIMARY KEY (portfolio, as_of, seq)
);
