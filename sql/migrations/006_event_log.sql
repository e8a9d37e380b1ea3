-- One chain a portfolio ('' is the job's own), so that two portfolios never wait for each other's next number.
CREATE TABLE metarisk.event_log (
    portfolio    TEXT        NOT NULL,
    seq          BIGINT      NOT NULL CHECK (seq >= 1),
    happened_at  TIMESTAMPTZ NOT NULL,
    kind         TEXT        NOT NULL,
    actor        TEXT        NOT NULL,
    payload      TEXT        NOT NULL,
    prev_hash    TEXT,
    hash         TEXT,
    PRIMARY KEY (portfolio, seq)
);
