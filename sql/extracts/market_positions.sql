-- What each book held at the end of its latest day by $as_of, in currency; short positions are negative.
SELECT
    p.book,
    p.asset,
    p.held
FROM source.market_positions AS p
WHERE p.day = (SELECT max(q.day) FROM source.market_positions AS q WHERE q.book = p.book AND q.day <= $as_of)
