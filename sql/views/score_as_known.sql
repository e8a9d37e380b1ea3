-- Every score ever published with the time during which it was the current one: known_from <= t < known_to answers
-- "what did we know at t". known_to is null while it is still current; a retraction ends it too.
CREATE VIEW metarisk.score_as_known AS
SELECT
    s.portfolio, s.as_of, s.entity, s.target, s.segment, s.status, s.score, s.score_low, s.score_high, s.grade, s.points,
    s.expected_loss, s.reasons, s.run_id, s.adaptation_id, p.seq, p.reason AS publication_reason, p.known_from, p.known_to
FROM (
    SELECT
        run_id, as_of, seq, reason, published_at AS known_from,
        lead(published_at) OVER (PARTITION BY portfolio, as_of ORDER BY seq) AS known_to
    FROM metarisk.publication
) AS p
JOIN metarisk.risk_score AS s ON s.run_id = p.run_id AND s.as_of = p.as_of;
