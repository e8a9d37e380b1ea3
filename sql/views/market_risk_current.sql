-- Each asset's volatility, value at risk and expected shortfall of the latest night, in one row; losses are shares of value.
CREATE VIEW metarisk.market_risk_current AS
SELECT
    portfolio,
    as_of,
    entity,
    max(segment) AS segment,
    max(CASE WHEN target = 'vol_1d' THEN score END) AS vol_1d,
    max(CASE WHEN target = 'vol_5d' THEN score END) AS vol_5d,
    max(CASE WHEN target = 'var_95_1d' THEN score END) AS var_95_1d,
    max(CASE WHEN target = 'var_99_1d' THEN score END) AS var_99_1d,
    max(CASE WHEN target = 'es_975_1d' THEN score END) AS es_975_1d
FROM metarisk.score_current
WHERE target IN ('vol_1d', 'vol_5d', 'var_95_1d', 'var_99_1d', 'es_975_1d')
GROUP BY portfolio, as_of, entity;
