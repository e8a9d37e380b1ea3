-- Every attempt at a night or a week and how it ended; `running` is one that has not ended, or whose death nobody has seen yet.
CREATE VIEW metarisk.attempt AS
SELECT
    e.portfolio,
    coalesce(s.job, CASE WHEN e.step IN ('judge', 'train', 'register') THEN 'week' WHEN e.outcome = 'published' THEN 'night' END) AS job,
    e.as_of, e.mode, e.outcome, e.step, e.error, e.started_at, e.ended_at, e.host, e.pid, e.step_seconds, e.run_id, e.attempt_id
FROM metarisk.run_attempt AS e
LEFT JOIN metarisk.attempt_start AS s ON s.attempt_id = e.attempt_id
UNION ALL
SELECT
    s.portfolio, s.job, s.as_of, s.mode, 'running', NULL, NULL, s.started_at, NULL, s.host, s.pid, NULL, NULL, s.attempt_id
FROM metarisk.attempt_start AS s
WHERE NOT EXISTS (SELECT 1 FROM metarisk.run_attempt AS e WHERE e.attempt_id = s.attempt_id);
