-- What a person decided of a score, in place of the model: set, and lifted again. The event log seals each row.
CREATE TABLE metarisk.score_override (
    portfolio    TEXT        NOT NULL,
    seq          BIGINT      NOT NULL CHECK (seq >= 1),
    entity       TEXT        NOT NULL,
    target       TEXT        NOT NULL,
    event        TEXT        NOT NULL CHECK (event IN ('set', 'lifted')),
    score        DOUBLE PRECISION,
    last_night   DATE,
    happened_at  TIMESTAMPTZ NOT NULL,
    author       TEXT        NOT NULL,
    reason       TEXT        NOT NULL,
    PRIMARY KEY (portfolio, seq),
    CHECK ((event = 'set') = (score IS NOT NULL))
);
