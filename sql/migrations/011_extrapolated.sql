-- Whether a row lies outside of what any labelled row shows; null where a portfolio scores its own book alone.
ALTER TABLE metarisk.risk_score ADD COLUMN extrapolated BOOLEAN;
