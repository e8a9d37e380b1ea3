-- Every asset on its market's rebalancing dates, each fifth session, and on the last session by $as_of: ranks of what was
-- known at the close, and the rank of the return that followed where it is over.
--
-- The label's five days begin at that close; what a portfolio earns (held_5d) begins a session later, for nobody deals at a
-- price that he has just read. A bar that cannot be believed has a `fault` and feeds no mean: the suite sets it aside.
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

numbered AS (
    SELECT
        market,
        day,
        row_number() OVER (PARTITION BY market ORDER BY day) AS session,
        max(day) OVER (PARTITION BY market) AS newest
    FROM (SELECT DISTINCT market, day FROM moved) AS known
),

daily AS (
    SELECT
        m.asset,
        m.market,
        m.sector,
        m.day,
        m.days,
        m.split,
        n.session,
        n.newest,
        CASE WHEN m.split THEN 0 ELSE ln(m.gross) END AS step,
        CASE WHEN m.split THEN 0 ELSE ln(m.gross) - m.intraday END AS night,
        ln(m.close * m.volume) AS traded
    FROM moved AS m
    INNER JOIN numbered AS n ON n.market = m.market AND n.day = m.day
),

factor AS (
    SELECT *, avg(step) OVER (PARTITION BY market, day) AS market_step FROM daily
),

rolling AS (
    SELECT
        *,
        -- The log of the price, adjusted also for splits that the source does not adjust for.
        sum(step) OVER (own ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS price,
        regr_slope(step, market_step) OVER (own ROWS BETWEEN 125 PRECEDING AND CURRENT ROW) AS beta,
        sum(market_step) OVER (own ROWS BETWEEN 62 PRECEDING AND CURRENT ROW) AS market_63,
        sum(night) OVER (own ROWS BETWEEN 20 PRECEDING AND CURRENT ROW) AS night_21,
        max(step) OVER (own ROWS BETWEEN 20 PRECEDING AND CURRENT ROW) AS best,
        ln(nullif(stddev_samp(step) OVER (own ROWS BETWEEN 4 PRECEDING AND CURRENT ROW), 0)) AS spread_5,
        ln(nullif(stddev_samp(step) OVER (own ROWS BETWEEN 21 PRECEDING AND CURRENT ROW), 0)) AS spread_22,
        ln(nullif(stddev_samp(step) OVER (own ROWS BETWEEN 62 PRECEDING AND CURRENT ROW), 0)) AS spread_63,
        avg(traded) OVER (own ROWS BETWEEN 4 PRECEDING AND CURRENT ROW) AS traded_5,
        avg(traded) OVER (own ROWS BETWEEN 21 PRECEDING AND CURRENT ROW) AS traded_22,
        avg(traded) OVER (own ROWS BETWEEN 62 PRECEDING AND CURRENT ROW) AS traded_63
    FROM factor
    WINDOW own AS (PARTITION BY asset ORDER BY day)
),

lagged AS (
    SELECT
        *,
        coalesce(lag(price, 21) OVER own, first_value(price) OVER own) AS price_21,
        coalesce(lag(price, 63) OVER own, first_value(price) OVER own) AS price_63,
        coalesce(lag(price, 126) OVER own, first_value(price) OVER own) AS price_126,
        coalesce(lag(price, 250) OVER own, first_value(price) OVER own) AS price_250,
        lag(price, 5) OVER own AS price_5,
        max(price) OVER (own ROWS BETWEEN 249 PRECEDING AND CURRENT ROW) AS peak
    FROM rolling
    WINDOW own AS (PARTITION BY asset ORDER BY day)
),

raw AS (
    SELECT
        l.*,
        l.price_21 - l.price_250 AS momentum_250,
        l.price_21 - l.price_126 AS momentum_126,
        l.price - l.price_63 AS momentum_63,
        l.price - l.price_21 AS reversal_21,
        l.price - l.price_5 AS reversal_5,
        l.step AS reversal_1,
        l.night_21 AS overnight_21,
        l.spread_22 AS volatility_22,
        l.spread_5 - l.spread_63 AS volatility_change,
        l.traded_5 - l.traded_63 AS traded_change,
        l.price - l.peak AS high_250,
        l.best AS best_21,
        l.beta AS beta_126,
        l.price - l.price_63 - l.beta * l.market_63 AS alpha_63,
        avg(l.price - l.price_21) OVER (PARTITION BY l.market, l.sector, l.day) AS sector_21,
        l.price - l.price_5 - avg(l.price - l.price_5) OVER (PARTITION BY l.market, l.sector, l.day) AS against_sector_5,
        soon.price - l.price AS return_5d,
        soon.day AS known_5d,
        exp(later.price - next.price) - 1 AS held_5d
    FROM lagged AS l
    LEFT JOIN lagged AS next ON next.asset = l.asset AND next.session = l.session + 1
    LEFT JOIN lagged AS soon ON soon.asset = l.asset AND soon.session = l.session + 5
    LEFT JOIN lagged AS later ON later.asset = l.asset AND later.session = l.session + 6
    WHERE l.session % 5 = 0 OR l.day = l.newest
)

SELECT
    asset,
    day,
    market,
    sector,
    'none' AS fault,
    days,
    -- Evenly spread over a date's assets, mean 0 and variance 1.
    sqrt(12) * ((rank() OVER (PARTITION BY market, day ORDER BY return_5d) - 0.5)
    / CAST(nullif(count(return_5d) OVER dated, 0) AS DOUBLE PRECISION) - 0.5) * CASE WHEN return_5d IS NOT NULL THEN 1 END AS rank_5d,
    known_5d,
    held_5d,
    ((rank() OVER (PARTITION BY market, day ORDER BY momentum_250) - 0.5) / CAST(nullif(count(momentum_250) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN momentum_250 IS NOT NULL THEN 1 END AS momentum_250,
    ((rank() OVER (PARTITION BY market, day ORDER BY momentum_126) - 0.5) / CAST(nullif(count(momentum_126) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN momentum_126 IS NOT NULL THEN 1 END AS momentum_126,
    ((rank() OVER (PARTITION BY market, day ORDER BY momentum_63) - 0.5) / CAST(nullif(count(momentum_63) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN momentum_63 IS NOT NULL THEN 1 END AS momentum_63,
    ((rank() OVER (PARTITION BY market, day ORDER BY reversal_21) - 0.5) / CAST(nullif(count(reversal_21) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN reversal_21 IS NOT NULL THEN 1 END AS reversal_21,
    ((rank() OVER (PARTITION BY market, day ORDER BY reversal_5) - 0.5) / CAST(nullif(count(reversal_5) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN reversal_5 IS NOT NULL THEN 1 END AS reversal_5,
    ((rank() OVER (PARTITION BY market, day ORDER BY reversal_1) - 0.5) / CAST(nullif(count(reversal_1) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN reversal_1 IS NOT NULL THEN 1 END AS reversal_1,
    ((rank() OVER (PARTITION BY market, day ORDER BY overnight_21) - 0.5) / CAST(nullif(count(overnight_21) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN overnight_21 IS NOT NULL THEN 1 END AS overnight_21,
    ((rank() OVER (PARTITION BY market, day ORDER BY volatility_22) - 0.5) / CAST(nullif(count(volatility_22) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN volatility_22 IS NOT NULL THEN 1 END AS volatility_22,
    ((rank() OVER (PARTITION BY market, day ORDER BY volatility_change) - 0.5) / CAST(nullif(count(volatility_change) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN volatility_change IS NOT NULL THEN 1 END AS volatility_change,
    ((rank() OVER (PARTITION BY market, day ORDER BY traded_22) - 0.5) / CAST(nullif(count(traded_22) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN traded_22 IS NOT NULL THEN 1 END AS traded_22,
    ((rank() OVER (PARTITION BY market, day ORDER BY traded_change) - 0.5) / CAST(nullif(count(traded_change) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN traded_change IS NOT NULL THEN 1 END AS traded_change,
    ((rank() OVER (PARTITION BY market, day ORDER BY high_250) - 0.5) / CAST(nullif(count(high_250) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN high_250 IS NOT NULL THEN 1 END AS high_250,
    ((rank() OVER (PARTITION BY market, day ORDER BY best_21) - 0.5) / CAST(nullif(count(best_21) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN best_21 IS NOT NULL THEN 1 END AS best_21,
    ((rank() OVER (PARTITION BY market, day ORDER BY beta_126) - 0.5) / CAST(nullif(count(beta_126) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN beta_126 IS NOT NULL THEN 1 END AS beta_126,
    ((rank() OVER (PARTITION BY market, day ORDER BY alpha_63) - 0.5) / CAST(nullif(count(alpha_63) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN alpha_63 IS NOT NULL THEN 1 END AS alpha_63,
    ((rank() OVER (PARTITION BY market, day ORDER BY sector_21) - 0.5) / CAST(nullif(count(sector_21) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN sector_21 IS NOT NULL THEN 1 END AS sector_21,
    ((rank() OVER (PARTITION BY market, day ORDER BY against_sector_5) - 0.5) / CAST(nullif(count(against_sector_5) OVER dated, 0) AS DOUBLE PRECISION) - 0.5)
    * CASE WHEN against_sector_5 IS NOT NULL THEN 1 END AS against_sector_5
FROM raw
WHERE NOT split
WINDOW dated AS (PARTITION BY market, day)
UNION ALL
SELECT asset, day, market, sector, fault, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM (
    SELECT asset, day, market, sector, fault FROM checked WHERE fault <> 'no_trade'
    UNION ALL
    SELECT asset, day, market, sector, 'split_not_adjusted' FROM moved WHERE split
) AS aside
