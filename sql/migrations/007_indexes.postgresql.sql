CREATE INDEX run_by_night ON metarisk.run (portfolio, as_of);
CREATE INDEX run_attempt_by_run ON metarisk.run_attempt (run_id);
CREATE INDEX publication_by_run ON metarisk.publication (run_id);
CREATE INDEX model_by_portfolio ON metarisk.model (portfolio, as_of);
CREATE INDEX drift_metric_by_run ON metarisk.drift_metric (run_id);
CREATE INDEX drift_metric_by_night ON metarisk.drift_metric (portfolio, as_of);
CREATE INDEX quality_result_by_night ON metarisk.quality_result (portfolio, as_of);
CREATE INDEX outcome_by_entity ON metarisk.outcome (portfolio, entity, target);
CREATE INDEX evidence_by_model ON metarisk.evidence (model_id);
