-- The back-tests by grade of each portfolio's newest week.
CREATE VIEW metarisk.grade_backtest_current AS
SELECT
    portfolio, as_of, target, cohort, grade, place, rows, events, mean_score, event_rate, rate_low, rate_high, binomial_p,
    jeffreys_p, jeffreys_q, vasicek_p, vasicek_q, asset_correlation, status, model_id
FROM (
    SELECT
        b.portfolio, b.as_of, b.target, b.cohort, b.grade, b.place, b.rows, b.events, b.mean_score, b.event_rate, b.rate_low,
        b.rate_high, b.binomial_p, b.jeffreys_p, b.jeffreys_q, b.vasicek_p, b.vasicek_q, b.asset_correlation, b.status,
        b.model_id,
        rank() OVER (PARTITION BY b.portfolio ORDER BY b.as_of DESC, m.created_at DESC, m.model_id) AS recency
    FROM metarisk.grade_backtest AS b
    JOIN metarisk.model AS m ON m.model_id = b.model_id
) AS ranked
WHERE recency = 1;
