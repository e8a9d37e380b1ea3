-- What reviewers found out about scored rows. Appended; of several verdicts on one row the last decided one holds.
CREATE TABLE metarisk.feedback (
    portfolio    TEXT        NOT NULL,
    seq          BIGINT      NOT NULL CHECK (seq >= 1),
    entity       TEXT        NOT NULL,
    verdict      TEXT        NOT NULL CHECK (verdict IN ('confirmed', 'cleared')),
    decided_on   DATE        NOT NULL,
    recorded_at  TIMESTAMPTZ NOT NULL,
    author       TEXT        NOT NULL,
    note         TEXT,
    PRIMARY KEY (portfolio, seq)
);
