-- Every configuration that a week judged out of sample, appended. How good the best of them looks by luck alone depends on
-- how many there were and how far they lie apart, so none may be left out.
CREATE TABLE metarisk.trial (
    model_id       TEXT              NOT NULL,
    portfolio      TEXT              NOT NULL,
    as_of          DATE              NOT NULL,
    recipe         TEXT              NOT NULL,
    configuration  TEXT              NOT NULL,
    recorded_at    TIMESTAMPTZ       NOT NULL,
    metric         TEXT              NOT NULL,
    value          DOUBLE PRECISION,
    low            DOUBLE PRECISION,
    high           DOUBLE PRECISION,
    note           TEXT
);
