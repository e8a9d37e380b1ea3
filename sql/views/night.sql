-- One row a publication, for operations: what ran, how much, how long its attempt took, and whether it may stand. A night that
-- was taken back is `retracted`, and so is the row without a run that says so.
CREATE VIEW metarisk.night AS
SELECT
    p.portfolio, p.as_of, p.seq, p.published_at, coalesce(p.seq = c.seq, FALSE) AS is_current, r.mode, p.reason, p.run_id,
    r.model_id, r.model_age_days, r.rows_extracted, r.rows_scored, r.rows_quarantined, r.segments_adapted, r.segments_carried,
    r.segments_abstained, r.segments_fallback, r.code_version, a.started_at, a.ended_at,
    CAST(extract(EPOCH FROM a.ended_at - a.started_at) AS DOUBLE PRECISION) AS duration_seconds, a.attempts,
    r.max_model_age_days,
    CASE
        WHEN p.run_id IS NULL OR t.run_id IS NOT NULL THEN 'retracted'
        WHEN p.seq = c.seq AND m.state = 'withdrawn' THEN 'red'
        WHEN r.model_age_days > r.max_model_age_days THEN 'amber'
        ELSE 'green'
    END AS status,
    CASE
        WHEN p.run_id IS NULL OR t.run_id IS NOT NULL THEN 'taken back by a person: ' || coalesce(t.reason, p.reason)
        WHEN p.seq = c.seq AND m.state = 'withdrawn' THEN 'the model was withdrawn since: publish the night again with --restate'
        WHEN r.model_age_days > r.max_model_age_days THEN 'the model is ' || r.model_age_days
            || ' days old, more than max_model_age_days = ' || r.max_model_age_days || ': run the weekly'
    END AS status_reason
FROM metarisk.publication AS p
LEFT JOIN metarisk.publication_current AS c ON c.portfolio = p.portfolio AND c.as_of = p.as_of
LEFT JOIN (
    SELECT *, CAST(CAST(manifest AS JSON) ->> 'max_model_age_days' AS INTEGER) AS max_model_age_days FROM metarisk.run
) AS r ON r.run_id = p.run_id
LEFT JOIN metarisk.retracted_run AS t ON t.run_id = p.run_id
LEFT JOIN metarisk.model_current AS m ON m.model_id = r.model_id
LEFT JOIN (
    SELECT
        run_id,
        min(CASE WHEN outcome = 'published' THEN started_at END) AS started_at,
        min(CASE WHEN outcome = 'published' THEN ended_at END) AS ended_at,
        count(*) AS attempts
    FROM metarisk.run_attempt
    GROUP BY run_id
) AS a ON a.run_id = p.run_id;
