-- What each portfolio's risk type published of its latest night beside the scores.
CREATE VIEW metarisk.measure_current AS
SELECT m.portfolio, m.as_of, m.kind, m.item, m.segment, m.metric, m.value, m.low, m.high, m.note, m.run_id
FROM metarisk.publication_current AS p
JOIN metarisk.measure AS m ON m.run_id = p.run_id
WHERE p.is_latest;
