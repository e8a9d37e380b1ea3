-- Why scores moved since the published night before: one row a run, segment (null: the whole portfolio) and measure.
CREATE TABLE metarisk.score_move_part (
    run_id           TEXT             NOT NULL,
    before_run_id    TEXT             NOT NULL,
    portfolio        TEXT             NOT NULL,
    as_of            DATE             NOT NULL,
    before_as_of     DATE             NOT NULL,
    target           TEXT             NOT NULL,
    segment          TEXT,
    measure          TEXT             NOT NULL,
    rows_before      BIGINT           NOT NULL,
    rows_after       BIGINT           NOT NULL,
    rows_entered     BIGINT           NOT NULL,
    rows_left        BIGINT           NOT NULL,
    value_before     DOUBLE PRECISION,
    value_after      DOUBLE PRECISION,
    from_leavers     DOUBLE PRECISION,
    from_entrants    DOUBLE PRECISION,
    from_data        DOUBLE PRECISION,
    from_adaptation  DOUBLE PRECISION,
    from_model       DOUBLE PRECISION,
    from_calibration DOUBLE PRECISION
);

CREATE INDEX score_move_part_by_run ON metarisk.score_move_part (run_id);
