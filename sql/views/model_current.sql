-- Every model with its newest state.
CREATE VIEW metarisk.model_current AS
SELECT
    m.model_id, m.portfolio, m.as_of, m.recipe, s.state, s.since, s.by_whom, s.reason, m.created_at, m.path, m.metrics,
    m.config_hash, m.code_version, coalesce(m.mode, 'weekly') AS mode
FROM metarisk.model AS m
JOIN (
    SELECT model_id, state, since, by_whom, reason, row_number() OVER (PARTITION BY model_id ORDER BY seq DESC) AS place
    FROM metarisk.model_state
) AS s ON s.model_id = m.model_id AND s.place = 1;
