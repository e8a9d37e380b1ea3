-- Every asset and trading day by $as_of: what was known at the close, and the variance that followed where it is known.
--
-- A bar that cannot be believed has a `fault`, feeds no mean and has no features: the suite sets it aside. Windows hold
-- what there is: on its tenth day an asset has means of ten days. Logs of daily variance are floored at 1e-6.
WITH session AS (
    SELECT
        a.market,
        b.day,
        count(*) AS assets,
        avg(count(*)) OVER (PARTITION BY a.market ORDER BY b.day ROWS BETWEEN 10 PRECEDING AND 1 PRECEDING) AS usual
    FROM source.market_bars AS b
    INNER JOIN source.market_assets AS a ON a.asset = b.asset
    WHERE b.day <= $as_of
    GROUP BY a.market, b.day
),

seen AS (
    SELECT
        b.*,
        a.market,
        a.sector,
        row_number() OVER (PARTITION BY b.asset, b.day ORDER BY b.close, b.volume) AS copy,
        -- Copies that agree are one bar; of others nobody knows which is right.
        max(b.close) OVER twins > min(b.close) OVER twins OR max(b.volume) OVER twins > min(b.volume) OVER twins AS twice,
        -- Bars stamped in another time zone fall on days on which the market rests.
        coalesce(s.assets < 0.2 * s.usual, FALSE) AS lonely,
        count(*) OVER lately = 5 AND max(b.high) OVER lately = min(b.low) OVER lately AS frozen
    FROM source.market_bars AS b
    INNER JOIN source.market_assets AS a ON a.asset = b.asset
    INNER JOIN session AS s ON s.market = a.market AND s.day = b.day
    WHERE b.day <= $as_of
    WINDOW
        lately AS (PARTITION BY b.asset ORDER BY b.day ROWS BETWEEN 4 PRECEDING AND CURRENT ROW),
        twins AS (PARTITION BY b.asset, b.day)
),

checked AS (
    SELECT
        *,
        CASE
            WHEN twice THEN 'duplicate'
            WHEN coalesce(least(open, high, low, close, adj_close), 0) <= 0 THEN 'price_not_positive'
            WHEN high < low THEN 'high_below_low'
            WHEN lonely THEN 'off_calendar'
            WHEN coalesce(volume, 0) <= 0 THEN 'no_trade'
            WHEN frozen THEN 'stale_price'
        END AS fault
    FROM seen
    WHERE copy = 1
),

priced AS (
    SELECT
        *,
        adj_close / lag(adj_close) OVER (PARTITION BY asset ORDER BY day) AS gross,
        ln(close / open) AS intraday,
        ln(greatest(high, open, close) / least(low, open, close)) AS span
    FROM checked
    WHERE fault IS NULL
),

moved AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY asset ORDER BY day) AS days,
        -- A move to within 3 % of a whole or half ratio that the day's own range does not explain is a split.
        coalesce(
            greatest(gross, 1 / gross) > 1.45 AND span < 0.15
            AND abs(2 * greatest(gross, 1 / gross) / round(2 * greatest(gross, 1 / gross)) - 1) < 0.03,
            FALSE
        ) AS split
    FROM priced
),

daily AS (
    SELECT
        asset,
        market,
        sector,
        day,
        days,
        split,
        close,
        CASE WHEN NOT split THEN ln(gross) END AS return_1d,
        CASE
            WHEN NOT split AND gross IS NOT NULL THEN greatest(
                greatest(0.5 * span * span - (2 * ln(2) - 1) * intraday * intraday, 0) + power(ln(gross) - intraday, 2),
                0.000001
            )
        END AS variance,
        ln(close * volume) AS value_traded
    FROM moved
),

market_day AS (
    SELECT
        market,
        day,
        avg(ln(variance)) AS level,
        least(avg(return_1d), 0) AS fall
    FROM daily
    GROUP BY market, day
),

sector_day AS (
    SELECT
        d.market,
        d.sector,
        d.day,
        avg(ln(d.variance)) - max(m.level) AS level
    FROM daily AS d
    INNER JOIN market_day AS m ON m.market = d.market AND m.day = d.day
    GROUP BY d.market, d.sector, d.day
),

market_lately AS (
    SELECT
        market,
        day,
        level AS market_1,
        avg(level) OVER (PARTITION BY market ORDER BY day ROWS BETWEEN 4 PRECEDING AND CURRENT ROW) AS market_5,
        avg(level) OVER (PARTITION BY market ORDER BY day ROWS BETWEEN 21 PRECEDING AND CURRENT ROW) AS market_22,
        avg(level) OVER (PARTITION BY market ORDER BY day ROWS BETWEEN 119 PRECEDING AND CURRENT ROW) AS market_120,
        100 * fall AS market_fall
    FROM market_day
),

sector_lately AS (
    SELECT
        market,
        sector,
        day,
        avg(level) OVER (PARTITION BY market, sector ORDER BY day ROWS BETWEEN 4 PRECEDING AND CURRENT ROW) AS sector_5,
        avg(level) OVER (PARTITION BY market, sector ORDER BY day ROWS BETWEEN 21 PRECEDING AND CURRENT ROW) AS sector_22
    FROM sector_day
),

lately AS (
    SELECT
        *,
        ln(variance) AS vol_1,
        ln(avg(variance) OVER (own ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)) AS vol_5,
        ln(avg(variance) OVER (own ROWS BETWEEN 9 PRECEDING AND CURRENT ROW)) AS vol_10,
        ln(avg(variance) OVER (own ROWS BETWEEN 19 PRECEDING AND CURRENT ROW)) AS vol_20,
        ln(avg(variance) OVER (own ROWS BETWEEN 21 PRECEDING AND CURRENT ROW)) AS vol_22,
        avg(ln(variance)) OVER (own ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS level_10,
        avg(ln(variance)) OVER (own ROWS BETWEEN 19 PRECEDING AND CURRENT ROW) AS level_20,
        avg(ln(variance)) OVER (own ROWS BETWEEN 59 PRECEDING AND CURRENT ROW) AS level_60,
        avg(ln(variance)) OVER (own ROWS BETWEEN 119 PRECEDING AND CURRENT ROW) AS level_120,
        avg(ln(variance)) OVER (own ROWS BETWEEN 249 PRECEDING AND CURRENT ROW) AS level_250,
        ln(greatest(
            sum(return_1d * return_1d * power(0.94, -days)) OVER (own ROWS BETWEEN 119 PRECEDING AND CURRENT ROW)
            / sum(CASE WHEN return_1d IS NOT NULL THEN power(0.94, -days) END)
            OVER (own ROWS BETWEEN 119 PRECEDING AND CURRENT ROW),
            0.000001
        )) AS ewma_return,
        ln(
            sum(variance * power(0.94, -days)) OVER (own ROWS BETWEEN 119 PRECEDING AND CURRENT ROW)
            / sum(CASE WHEN variance IS NOT NULL THEN power(0.94, -days) END)
            OVER (own ROWS BETWEEN 119 PRECEDING AND CURRENT ROW)
        ) AS ewma_variance,
        avg(value_traded) OVER (own ROWS BETWEEN 21 PRECEDING AND CURRENT ROW) AS traded_22,
        avg(value_traded) OVER (own ROWS BETWEEN 19 PRECEDING AND CURRENT ROW) AS traded_20,
        avg(value_traded) OVER (own ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS traded_10,
        lead(variance) OVER own AS variance_1d,
        lead(day) OVER own AS known_1d,
        CASE
            WHEN count(variance) OVER (own ROWS BETWEEN 1 FOLLOWING AND 5 FOLLOWING) = 5
                THEN avg(variance) OVER (own ROWS BETWEEN 1 FOLLOWING AND 5 FOLLOWING)
        END AS variance_5d,
        lead(day, 5) OVER own AS known_5d
    FROM daily
    WINDOW own AS (PARTITION BY asset ORDER BY day)
)

SELECT
    d.asset,
    d.day,
    d.market,
    d.sector,
    d.asset AS symbol,
    d.days,
    CASE WHEN d.split THEN 'split_not_adjusted' ELSE 'none' END AS fault,
    d.variance_1d,
    d.known_1d,
    d.variance_5d,
    d.known_5d,
    d.return_1d,
    d.vol_1,
    d.vol_5,
    d.vol_10,
    d.vol_20,
    d.vol_22,
    d.level_10,
    d.level_20,
    d.level_60,
    d.level_120,
    d.level_250,
    d.ewma_return,
    d.ewma_variance,
    m.market_1,
    m.market_5,
    m.market_22,
    m.market_120,
    m.market_fall,
    s.sector_5,
    s.sector_22,
    coalesce(least(d.return_1d, 0), 0) / exp(0.5 * d.vol_10) AS fall_10,
    coalesce(least(d.return_1d, 0), 0) / exp(0.5 * d.vol_20) AS fall_20,
    coalesce(least(d.return_1d, 0), 0) / exp(0.5 * d.vol_22) AS fall_22,
    d.traded_10,
    d.traded_20,
    d.traded_22,
    avg(d.traded_22) OVER (PARTITION BY d.market, d.day) AS market_traded
FROM lately AS d
INNER JOIN market_lately AS m ON m.market = d.market AND m.day = d.day
INNER JOIN sector_lately AS s ON s.market = d.market AND s.sector = d.sector AND s.day = d.day
UNION ALL
SELECT
    asset, day, market, sector, asset, NULL, fault, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM checked
WHERE fault IS NOT NULL AND fault <> 'no_trade'
