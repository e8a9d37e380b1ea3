-- The evidence behind each portfolio's champion.
CREATE VIEW metarisk.evidence_current AS
SELECT
    e.portfolio, e.as_of, e.model_id, e.protocol, e.candidate, e.slice, e.metric, e.value, e.low, e.high, e.rows, e.events,
    e.note
FROM metarisk.model_current AS m
JOIN metarisk.evidence AS e ON e.model_id = m.model_id
WHERE m.state = 'champion';
