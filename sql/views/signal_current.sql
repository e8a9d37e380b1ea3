-- Each asset's signal, rank and suggested weight of the latest night, in one row, with the signal's reasons.
CREATE VIEW metarisk.signal_current AS
SELECT
    portfolio,
    as_of,
    entity,
    max(segment) AS segment,
    max(CASE WHEN target = 'signal_5d' THEN score END) AS signal_5d,
    max(CASE WHEN target = 'rank' THEN score END) AS signal_rank,
    max(CASE WHEN target = 'weight' THEN score END) AS weight,
    max(CASE WHEN target = 'signal_5d' THEN reasons END) AS reasons
FROM metarisk.score_current
WHERE target IN ('signal_5d', 'rank', 'weight')
GROUP BY portfolio, as_of, entity
HAVING max(CASE WHEN target = 'signal_5d' THEN 1 END) = 1;
