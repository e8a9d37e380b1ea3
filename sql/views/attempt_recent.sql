-- What was tried in each portfolio's last 35 days of nights and how it ended, also where nothing was published.
CREATE VIEW metarisk.attempt_recent AS
SELECT portfolio, as_of, mode, outcome, step, error, started_at, ended_at, host, pid, step_seconds, run_id, attempt_id, job
FROM (
    SELECT
        portfolio, as_of, mode, outcome, step, error, started_at, ended_at, host, pid, step_seconds, run_id, attempt_id, job,
        max(as_of) OVER (PARTITION BY portfolio) AS newest_as_of
    FROM metarisk.attempt
) AS dated
WHERE newest_as_of - as_of < 35;
