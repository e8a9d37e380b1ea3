ALTER TABLE metarisk.risk_score ADD COLUMN expected_loss DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN level_shift DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN pooled_score DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN score_quantile DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN score_bound DOUBLE PRECISION;

-- What came of published scores, by cohort and grade, as known at the week's as_of.
CREATE TABLE metarisk.grade_backtest (
    portfolio          TEXT             NOT NULL,
    as_of              DATE             NOT NULL,
    model_id           TEXT             NOT NULL,
    target             TEXT             NOT NULL,
    cohort             TEXT             NOT NULL,
    grade              TEXT             NOT NULL,
    place              INTEGER          NOT NULL,
    rows               BIGINT           NOT NULL,
    events             BIGINT           NOT NULL,
    mean_score         DOUBLE PRECISION NOT NULL,
    event_rate         DOUBLE PRECISION NOT NULL,
    rate_low           DOUBLE PRECISION NOT NULL,
    rate_high          DOUBLE PRECISION NOT NULL,
    binomial_p         DOUBLE PRECISION NOT NULL,
    jeffreys_p         DOUBLE PRECISION NOT NULL,
    jeffreys_q         DOUBLE PRECISION NOT NULL,
    vasicek_p          DOUBLE PRECISION NOT NULL,
    vasicek_q          DOUBLE PRECISION NOT NULL,
    asset_correlation  DOUBLE PRECISION NOT NULL,
    status             TEXT             NOT NULL
);
