ALTER TABLE metarisk.risk_score ADD COLUMN expected_loss DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN level_shift DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN pooled_score DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN score_quantile DOUBLE PRECISION;
ALTER TABLE metarisk.adaptation ADD COLUMN score_bound DOUBLE PRECISION;
