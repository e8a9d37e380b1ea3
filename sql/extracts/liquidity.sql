-- Every asset and trading day by $as_of: how dear it was to trade it, and how dear the next five days were where known.
--
-- Illiquidity of a day is Amihud's: per cent that the price moved for a million of currency traded. The spread is that of
-- Corwin and Schultz, of the day and the one before, adjusted for the night between them, zero where negative. A day
-- without volume is a day: it has neither, and counts as none traded. A bar that cannot be believed has a `fault` and
-- feeds no mean. Windows hold what there is. Logs are of illiquidity + 0.00001 and of the spread + 0.001.
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
        coalesce(b.volume, 0) AS shares,
        row_number() OVER (PARTITION BY b.asset, b.day ORDER BY b.close, b.volume) AS copy,
        -- Copies that agree are one bar; of others nobody knows which is right.
        max(b.close) OVER twins > min(b.close) OVER twins OR max(b.volume) OVER twins > min(b.volume) OVER twins AS twice,
        -- Bars stamped in another time zone fall on days on which the market rests.
        coalesce(s.assets < 0.2 * s.usual, FALSE) AS lonely,
        count(*) OVER lately = 5 AND max(b.high) OVER lately = min(b.low) OVER lately AS frozen,
        coalesce(sum(b.volume) OVER half_year, 0) <= 0 AS dead
    FROM source.market_bars AS b
    INNER JOIN source.market_assets AS a ON a.asset = b.asset
    INNER JOIN session AS s ON s.market = a.market AND s.day = b.day
    WHERE b.day <= $as_of
    WINDOW
        lately AS (PARTITION BY b.asset ORDER BY b.day ROWS BETWEEN 4 PRECEDING AND CURRENT ROW),
        half_year AS (PARTITION BY b.asset ORDER BY b.day ROWS BETWEEN 119 PRECEDING AND CURRENT ROW),
        twins AS (PARTITION BY b.asset, b.day)
),

checked AS (
    SELECT
        *,
        CASE
            WHEN twice THEN 'duplicate'
            WHEN shares < 0 THEN 'volume_negative'
            WHEN lonely THEN 'off_calendar'
            WHEN dead THEN 'never_trades'
            WHEN shares = 0 THEN NULL
            WHEN coalesce(least(open, high, low, close, adj_close), 0) <= 0 THEN 'price_not_positive'
            WHEN high < low THEN 'high_below_low'
            WHEN frozen THEN 'stale_price'
        END AS fault
    FROM seen
    WHERE copy = 1
),

priced AS (
    SELECT
        asset,
        market,
        sector,
        day,
        close,
        adj_close,
        close * shares AS value,
        adj_close / lag(adj_close) OVER own AS gross,
        lag(adj_close) OVER own AS last_close,
        lag(high * adj_close / close) OVER own AS last_high,
        lag(low * adj_close / close) OVER own AS last_low,
        high * adj_close / close AS high,
        low * adj_close / close AS low,
        ln(greatest(high, open, close) / least(low, open, close)) AS span
    FROM checked
    WHERE fault IS NULL AND shares > 0
    WINDOW own AS (PARTITION BY asset ORDER BY day)
),

moved AS (
    SELECT
        *,
        -- The night between two days is no part of their ranges.
        greatest(low - last_close, 0) + least(high - last_close, 0) AS gap,
        -- A move to within 3 % of a whole or half ratio that the day's own range does not explain is a split.
        coalesce(
            greatest(gross, 1 / gross) > 1.45 AND span < 0.15
            AND abs(2 * greatest(gross, 1 / gross) / round(2 * greatest(gross, 1 / gross)) - 1) < 0.03,
            FALSE
        ) AS split
    FROM priced
),

ranged AS (
    SELECT
        *,
        power(ln(last_high / last_low), 2) + power(ln((high - gap) / (low - gap)), 2) AS beta,
        power(ln(greatest(last_high, high - gap) / least(last_low, low - gap)), 2) AS gamma
    FROM moved
),

angled AS (
    SELECT
        *,
        (sqrt(2 * beta) - sqrt(beta)) / (3 - 2 * sqrt(2.0)) - sqrt(gamma / (3 - 2 * sqrt(2.0))) AS alpha
    FROM ranged
),

traded AS (
    SELECT
        asset,
        market,
        sector,
        day,
        split,
        close,
        value,
        span,
        CASE WHEN NOT split THEN ln(gross) END AS return_1d,
        CASE WHEN NOT split AND abs(gross - 1) <= 0.5 THEN abs(gross - 1) END AS move,
        CASE WHEN NOT split AND alpha IS NOT NULL THEN greatest(2 * (exp(alpha) - 1) / (1 + exp(alpha)), 0) END AS spread
    FROM angled
),

daily AS (
    SELECT
        t.*,
        100 * t.move / (t.value / 1000000) AS illiquidity,
        CASE WHEN t.move = 0 THEN 1.0 WHEN t.move > 0 THEN 0.0 END AS still,
        0.0 AS idle
    FROM traded AS t
    UNION ALL
    SELECT
        asset, market, sector, day, FALSE, NULL, 0.0, NULL, NULL, NULL, NULL, NULL, NULL, 1.0
    FROM checked
    WHERE fault IS NULL AND shares = 0
),

numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY asset ORDER BY day) AS days
    FROM daily
),

lately AS (
    SELECT
        *,
        ln(illiquidity + 0.00001) AS illiq_1,
        ln(avg(illiquidity) OVER own_5 + 0.00001) AS illiq_5,
        ln(avg(illiquidity) OVER own_10 + 0.00001) AS illiq_10,
        ln(avg(illiquidity) OVER own_20 + 0.00001) AS illiq_20,
        ln(avg(illiquidity) OVER own_22 + 0.00001) AS illiq_22,
        ln(avg(illiquidity) OVER own_60 + 0.00001) AS illiq_60,
        ln(avg(illiquidity) OVER own_120 + 0.00001) AS illiq_120,
        avg(ln(illiquidity + 0.00001)) OVER own_10 AS level_10,
        avg(ln(illiquidity + 0.00001)) OVER own_20 AS level_20,
        avg(ln(illiquidity + 0.00001)) OVER own_60 AS level_60,
        avg(ln(illiquidity + 0.00001)) OVER own_120 AS level_120,
        ln(spread + 0.001) AS spread_1,
        ln(avg(spread) OVER own_5 + 0.001) AS spread_5,
        ln(avg(spread) OVER own_10 + 0.001) AS spread_10,
        ln(avg(spread) OVER own_20 + 0.001) AS spread_20,
        ln(avg(spread) OVER own_22 + 0.001) AS spread_22,
        ln(avg(spread) OVER own_60 + 0.001) AS spread_60,
        ln(avg(spread) OVER own_120 + 0.001) AS spread_120,
        CASE WHEN value > 0 THEN ln(value) END AS value_1,
        ln(greatest(avg(value) OVER own_5, 1)) AS value_5,
        ln(greatest(avg(value) OVER own_10, 1)) AS value_10,
        ln(greatest(avg(value) OVER own_20, 1)) AS value_20,
        ln(greatest(avg(value) OVER own_22, 1)) AS value_22,
        avg(CASE WHEN value > 0 THEN ln(value) END) OVER own_10 AS traded_10,
        avg(CASE WHEN value > 0 THEN ln(value) END) OVER own_20 AS traded_20,
        avg(CASE WHEN value > 0 THEN ln(value) END) OVER own_22 AS traded_22,
        ln(avg(move) OVER own_5 + 0.0001) AS move_5,
        ln(avg(move) OVER own_10 + 0.0001) AS move_10,
        ln(avg(move) OVER own_20 + 0.0001) AS move_20,
        ln(avg(move) OVER own_22 + 0.0001) AS move_22,
        ln(avg(span * span) OVER own_5 + 0.0000001) AS range_5,
        ln(avg(span * span) OVER own_10 + 0.0000001) AS range_10,
        ln(avg(span * span) OVER own_20 + 0.0000001) AS range_20,
        ln(avg(span * span) OVER own_22 + 0.0000001) AS range_22,
        avg(idle) OVER own_10 AS idle_10,
        avg(idle) OVER own_20 AS idle_20,
        avg(idle) OVER own_22 AS idle_22,
        avg(still) OVER own_10 AS still_10,
        avg(still) OVER own_20 AS still_20,
        avg(still) OVER own_22 AS still_22,
        avg(ln(close)) OVER own_5 AS price,
        avg(value) OVER own_22 AS daily_value,
        avg(spread) OVER own_120 AS spread_mean,
        stddev_samp(spread) OVER own_120 AS spread_sd,
        ln(
            sum(illiquidity * power(0.94, -days)) OVER own_120
            / nullif(sum(CASE WHEN illiquidity IS NOT NULL THEN power(0.94, -days) END) OVER own_120, 0) + 0.00001
        ) AS ewma_illiq,
        ln(
            sum(spread * power(0.94, -days)) OVER own_120
            / nullif(sum(CASE WHEN spread IS NOT NULL THEN power(0.94, -days) END) OVER own_120, 0) + 0.001
        ) AS ewma_spread,
        CASE
            WHEN lead(day, 5) OVER own IS NOT NULL AND count(illiquidity) OVER next_5 >= 3
                THEN ln(avg(illiquidity) OVER next_5 + 0.00001)
        END AS illiq_next,
        CASE
            WHEN lead(day, 5) OVER own IS NOT NULL AND count(spread) OVER next_5 >= 3
                THEN ln(avg(spread) OVER next_5 + 0.001)
        END AS spread_next,
        lead(day, 5) OVER own AS known_5d,
        ln(greatest(
            sum(return_1d * return_1d * power(0.94, -days)) OVER own_120
            / nullif(sum(CASE WHEN return_1d IS NOT NULL THEN power(0.94, -days) END) OVER own_120, 0),
            0.000001
        )) AS ewma_return
    FROM numbered
    WINDOW
        own AS (PARTITION BY asset ORDER BY day),
        own_5 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 4 PRECEDING AND CURRENT ROW),
        own_10 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 9 PRECEDING AND CURRENT ROW),
        own_20 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 19 PRECEDING AND CURRENT ROW),
        own_22 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 21 PRECEDING AND CURRENT ROW),
        own_60 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 59 PRECEDING AND CURRENT ROW),
        own_120 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 119 PRECEDING AND CURRENT ROW),
        next_5 AS (PARTITION BY asset ORDER BY day ROWS BETWEEN 1 FOLLOWING AND 5 FOLLOWING)
),

market_day AS (
    SELECT
        market,
        day,
        avg(illiq_5) AS illiq_5,
        avg(spread_5) AS spread_5
    FROM lately
    GROUP BY market, day
),

sector_day AS (
    SELECT
        market,
        sector,
        day,
        avg(illiq_5) AS illiq_5,
        avg(spread_5) AS spread_5
    FROM lately
    GROUP BY market, sector, day
)

SELECT
    d.asset,
    d.day,
    d.market,
    d.sector,
    d.asset AS symbol,
    d.days,
    CASE WHEN d.split THEN 'split_not_adjusted' ELSE 'none' END AS fault,
    d.illiq_next,
    d.spread_next,
    d.known_5d,
    d.return_1d,
    d.ewma_return,
    d.daily_value,
    d.spread_mean,
    d.spread_sd,
    d.illiq_1,
    d.illiq_5,
    d.illiq_10,
    d.illiq_20,
    d.illiq_22,
    d.illiq_60,
    d.illiq_120,
    d.level_10,
    d.level_20,
    d.level_60,
    d.level_120,
    d.spread_1,
    d.spread_5,
    d.spread_10,
    d.spread_20,
    d.spread_22,
    d.spread_60,
    d.spread_120,
    d.value_1,
    d.value_5,
    d.value_10,
    d.value_20,
    d.value_22,
    d.traded_10,
    d.traded_20,
    d.traded_22,
    d.move_5,
    d.move_10,
    d.move_20,
    d.move_22,
    d.range_5,
    d.range_10,
    d.range_20,
    d.range_22,
    d.idle_10,
    d.idle_20,
    d.idle_22,
    d.still_10,
    d.still_20,
    d.still_22,
    d.price,
    d.ewma_illiq,
    d.ewma_spread,
    s.illiq_5 - m.illiq_5 AS sector_illiq,
    s.spread_5 - m.spread_5 AS sector_spread
FROM lately AS d
INNER JOIN market_day AS m ON m.market = d.market AND m.day = d.day
INNER JOIN sector_day AS s ON s.market = d.market AND s.sector = d.sector AND s.day = d.day
UNION ALL
SELECT
    asset, day, market, sector, asset, NULL, fault, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM checked
WHERE fault IS NOT NULL
