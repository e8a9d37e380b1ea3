-- Each segment at the last night that had it: how old its scores are by the portfolio's newest night, and on what they rest.
CREATE VIEW metarisk.segment_health AS
SELECT
    portfolio, segment, as_of AS last_as_of, CAST(newest_as_of - as_of AS INTEGER) AS age_days, status, reason, support_rows, support_events,
    model_id, adaptation_id, run_id
FROM (
    SELECT
        a.portfolio, a.segment, a.as_of, a.status, a.reason, a.support_rows, a.support_events, a.model_id, a.adaptation_id,
        a.run_id,
        row_number() OVER (PARTITION BY a.portfolio, a.segment ORDER BY a.as_of DESC) AS place,
        n.newest_as_of
    FROM metarisk.publication_current AS p
    JOIN metarisk.adaptation AS a ON a.run_id = p.run_id
    JOIN (SELECT portfolio, max(as_of) AS newest_as_of FROM metarisk.publication_current GROUP BY portfolio) AS n
        ON n.portfolio = p.portfolio
) AS ranked
WHERE place = 1;
