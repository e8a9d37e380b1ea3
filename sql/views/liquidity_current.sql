-- What it costs to trade each asset, by the latest night; spreads, costs and losses are shares of value.
CREATE VIEW metarisk.liquidity_current AS
SELECT
    portfolio,
    as_of,
    entity,
    max(segment) AS segment,
    max(CASE WHEN target = 'illiq_5d' THEN score END) AS illiq_5d,
    max(CASE WHEN target = 'amihud_5d' THEN score END) AS amihud_5d,
    max(CASE WHEN target = 'spread_5d' THEN score END) AS spread_5d,
    max(CASE WHEN target = 'cs_spread_5d' THEN score END) AS cs_spread_5d,
    max(CASE WHEN target = 'exit_cost_99' THEN score END) AS exit_cost_99,
    max(CASE WHEN target = 'lvar_99_1d' THEN score END) AS lvar_99_1d
FROM metarisk.score_current
WHERE target IN ('illiq_5d', 'amihud_5d', 'spread_5d', 'cs_spread_5d', 'exit_cost_99', 'lvar_99_1d')
GROUP BY portfolio, as_of, entity;
