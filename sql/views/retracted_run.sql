-- Runs that a retraction took back and that were not published again since: no reader sees them, and nothing rests on them.
CREATE VIEW metarisk.retracted_run AS
SELECT p.portfolio, p.as_of, p.run_id, r.published_at AS retracted_at, r.reason
FROM (
    SELECT portfolio, as_of, run_id, max(seq) AS seq FROM metarisk.publication
    WHERE run_id IS NOT NULL GROUP BY portfolio, as_of, run_id
) AS p
JOIN (
    SELECT portfolio, as_of, max(seq) AS seq FROM metarisk.publication WHERE run_id IS NULL GROUP BY portfolio, as_of
) AS taken ON taken.portfolio = p.portfolio AND taken.as_of = p.as_of AND taken.seq > p.seq
JOIN metarisk.publication AS r ON r.portfolio = taken.portfolio AND r.as_of = taken.as_of AND r.seq = taken.seq;
