-- The cases to review after each portfolio's latest night, the riskiest first, with reasons as JSON and the last verdict.
CREATE VIEW metarisk.review_case AS
SELECT
    c.portfolio, c.as_of, c.case_id, c.segment, c.entity, c.place, c.score, c.at_risk, c.row_count,
    c.drawn > 0 AS drawn_at_random, c.chance, c.reasons, f.verdict, f.decided_on, c.run_id
FROM (
    SELECT
        m.portfolio, m.as_of, m.run_id, m.item AS case_id, m.segment,
        max(CASE WHEN m.metric = 'score' THEN CAST(m.note AS JSON) ->> 'entity' END) AS entity,
        max(CASE WHEN m.metric = 'score' THEN CAST(m.note AS JSON) ->> 'reasons' END) AS reasons,
        CAST(max(CASE WHEN m.metric = 'rank' THEN m.value END) AS INTEGER) AS place,
        max(CASE WHEN m.metric = 'score' THEN m.value END) AS score,
        max(CASE WHEN m.metric = 'at_risk' THEN m.value END) AS at_risk,
        CAST(max(CASE WHEN m.metric = 'rows' THEN m.value END) AS INTEGER) AS row_count,
        max(CASE WHEN m.metric = 'drawn' THEN m.value END) AS drawn,
        max(CASE WHEN m.metric = 'chance' THEN m.value END) AS chance
    FROM metarisk.measure_current AS m
    WHERE m.kind = 'alert'
    GROUP BY m.portfolio, m.as_of, m.run_id, m.item, m.segment
) AS c
LEFT JOIN (
    SELECT
        portfolio, entity, verdict, decided_on,
        row_number() OVER (PARTITION BY portfolio, entity ORDER BY decided_on DESC, seq DESC) AS newest
    FROM metarisk.feedback
) AS f ON f.portfolio = c.portfolio AND f.entity = c.entity AND f.newest = 1;
