-- Each position of the latest night: days to sell it and what it may lose, in the currency of the book.
CREATE VIEW metarisk.liquidity_position_current AS
SELECT
    portfolio,
    as_of,
    segment AS book,
    item AS asset,
    max(CASE WHEN metric = 'held' THEN value END) AS held,
    max(CASE WHEN metric = 'days' THEN value END) AS days,
    max(CASE WHEN metric = 'var_99_1d' THEN value END) AS var_99_1d,
    max(CASE WHEN metric = 'exit_cost_99' THEN value END) AS exit_cost_99,
    max(CASE WHEN metric = 'lvar_99_1d' THEN value END) AS lvar_99_1d,
    max(CASE WHEN metric = 'lvar_99_exit' THEN value END) AS lvar_99_exit,
    max(note) AS note
FROM metarisk.measure_current
WHERE kind = 'liquidation'
GROUP BY portfolio, as_of, segment, item;
