-- What each portfolio's risk type published beside the scores, night by night, of the runs that count.
CREATE VIEW metarisk.measure_history AS
SELECT m.portfolio, m.as_of, m.kind, m.item, m.segment, m.metric, m.value, m.low, m.high, m.note, m.run_id
FROM metarisk.publication_current AS p
JOIN metarisk.measure AS m ON m.run_id = p.run_id;
