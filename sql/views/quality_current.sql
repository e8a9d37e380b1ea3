-- The quality results of each portfolio's newest checked night, published or stopped; of several attempts, every one.
CREATE VIEW metarisk.quality_current AS
SELECT
    portfolio, as_of, suite, rule, column_name, severity, success, failing_rows, total_rows, detail, quarantine, run_id,
    attempt_id
FROM (
    SELECT
        portfolio, as_of, suite, rule, column_name, severity, success, failing_rows, total_rows, detail, quarantine, run_id,
        attempt_id,
        max(as_of) OVER (PARTITION BY portfolio) AS newest_as_of
    FROM metarisk.quality_result
) AS dated
WHERE as_of = newest_as_of;
