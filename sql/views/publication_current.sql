-- The publication that stands for each portfolio and as_of: its highest seq, unless that takes the night back.
CREATE VIEW metarisk.publication_current AS
SELECT
    portfolio, as_of, seq, run_id, published_at, reason, as_of = max(as_of) OVER (PARTITION BY portfolio) AS is_latest
FROM (
    SELECT
        portfolio, as_of, seq, run_id, published_at, reason,
        row_number() OVER (PARTITION BY portfolio, as_of ORDER BY seq DESC) AS place
    FROM metarisk.publication
) AS ranked
WHERE place = 1 AND run_id IS NOT NULL;
