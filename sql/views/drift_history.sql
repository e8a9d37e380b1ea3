-- The drift metrics of every night, restated where the night was.
CREATE VIEW metarisk.drift_history AS
SELECT
    d.portfolio, d.as_of, d.segment, d.level, d.feature, d.metric, d.value, d.effect, d.threshold, d.n_ref, d.n_cur, d.p,
    d.q, d.low, d.high, d.min_detectable_ratio, d.status, d.detail, d.run_id
FROM metarisk.publication_current AS p
JOIN metarisk.drift_metric AS d ON d.run_id = p.run_id;
