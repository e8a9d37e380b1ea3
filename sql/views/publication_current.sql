-- The publication that counts for each portfolio and as_of: its highest seq.
CREATE VIEW metarisk.publication_current AS
SELECT portfolio, as_of, seq, run_id, published_at, reason, as_of = max_as_of AS is_latest
FROM (
    SELECT
        portfolio, as_of, seq, run_id, published_at, reason,
        row_number() OVER (PARTITION BY portfolio, as_of ORDER BY seq DESC) AS place,
        max(as_of) OVER (PARTITION BY portfolio) AS max_as_of
    FROM metarisk.publication
) AS ranked
WHERE place = 1;
