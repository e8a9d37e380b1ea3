-- What a risk type publishes of a whole portfolio beside its scores: back-tests, alerts, capital. One long table; views pivot.
CREATE TABLE metarisk.measure (
    run_id     TEXT              NOT NULL,
    portfolio  TEXT              NOT NULL,
    as_of      DATE              NOT NULL,
    kind       TEXT              NOT NULL,
    item       TEXT              NOT NULL,
    segment    TEXT,
    metric     TEXT              NOT NULL,
    value      DOUBLE PRECISION,
    low        DOUBLE PRECISION,
    high       DOUBLE PRECISION,
    note       TEXT
);
