-- What is known now of each row: its latest telling. The next night tells anew what was stored before tellings had numbers.
CREATE VIEW metarisk.outcome_current AS
SELECT portfolio, entity, target, opened_on, event_date, known_date, value, as_of, seq
FROM (
    SELECT
        portfolio, entity, target, opened_on, event_date, known_date, value, as_of, seq,
        max(seq) OVER (PARTITION BY portfolio, entity, target, opened_on) AS newest
    FROM metarisk.outcome
) AS told
WHERE seq = newest;
