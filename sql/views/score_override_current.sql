-- Scores of each portfolio's latest night that a person has overridden, beside what the model says.
CREATE VIEW metarisk.score_override_current AS
SELECT
    s.portfolio, s.as_of, s.entity, s.target, s.segment, o.score, s.score AS model_score, o.author, o.reason,
    o.happened_at AS since, o.last_night, s.run_id
FROM metarisk.score_override AS o
JOIN (
    SELECT portfolio, entity, target, max(seq) AS seq FROM metarisk.score_override GROUP BY portfolio, entity, target
) AS newest ON newest.portfolio = o.portfolio AND newest.seq = o.seq
JOIN metarisk.score_current AS s ON s.portfolio = o.portfolio AND s.entity = o.entity AND s.target = o.target
WHERE o.event = 'set' AND (o.last_night IS NULL OR o.last_night >= s.as_of);
