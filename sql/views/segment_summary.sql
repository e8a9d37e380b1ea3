-- One row a night, segment and target: how many scores and how high.
CREATE VIEW metarisk.segment_summary AS
SELECT
    portfolio, as_of, segment, target, count(*) AS entities, avg(score) AS mean_score, min(score) AS lowest_score,
    max(score) AS highest_score,
    CASE WHEN count(extrapolated) > 0 THEN count(CASE WHEN extrapolated THEN 1 END) END AS extrapolated
FROM metarisk.score_history
GROUP BY portfolio, as_of, segment, target;
