-- Every night's scores, restated where the night was: history as it is seen now.
CREATE VIEW metarisk.score_history AS
SELECT
    s.portfolio, s.as_of, s.entity, s.target, s.segment, s.status, s.score, s.score_low, s.score_high, s.grade, s.points,
    s.expected_loss, s.reasons, s.run_id, s.adaptation_id, p.published_at, s.extrapolated
FROM metarisk.publication_current AS p
JOIN metarisk.risk_score AS s ON s.run_id = p.run_id AND s.as_of = p.as_of;
