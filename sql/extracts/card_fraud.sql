-- Every card transaction made by $as_of, with what was known of it by then, and how its card and its terminal had
-- behaved by the end of its day. A fraud counts on the day on which it was confirmed, never on that of the transaction;
-- sums are of whole cents, so that the order of the rows changes no bit.
WITH verdicts AS (
    SELECT entity, verdict, decided_on,
        row_number() OVER (PARTITION BY entity ORDER BY decided_on DESC, seq DESC) AS place
    FROM metarisk.feedback
    WHERE portfolio = 'card_fraud' AND decided_on <= $as_of
),
transactions AS (
    SELECT
        t.transaction_id,
        t.made_at,
        CAST(t.made_at AS DATE) AS made_on,
        t.card_id,
        t.terminal_id,
        t.card_group,
        t.terminal_group,
        t.currency,
        t.amount,
        CAST(round(CAST(t.amount AS DECIMAL(18, 4)) * 100) AS BIGINT) AS cents,
        CASE
            WHEN v.verdict = 'confirmed' THEN least(v.decided_on, coalesce(f.confirmed_on, v.decided_on))
            -- What comes in after a transaction was cleared is news; what had come in by then was cleared up.
            WHEN v.verdict IS NULL OR f.confirmed_on > v.decided_on THEN f.confirmed_on
        END AS confirmed_on,
        v.decided_on AS settled_on
    FROM source.card_transactions AS t
    LEFT JOIN source.card_frauds AS f
        ON f.transaction_id = t.transaction_id AND f.confirmed_on <= $as_of
    LEFT JOIN verdicts AS v
        ON v.entity = CAST(t.transaction_id AS TEXT) AND v.place = 1
    WHERE CAST(t.made_at AS DATE) <= $as_of AND t.made_at < $as_of + 1
),
seen AS (
    SELECT made_on AS seen_on, card_id, terminal_id, 1 AS made, cents, 0 AS confirmed
    FROM transactions
    UNION ALL
    SELECT confirmed_on, card_id, terminal_id, 0, 0, 1
    FROM transactions
    WHERE confirmed_on IS NOT NULL
),
card_days AS (
    SELECT card_id, seen_on, sum(made) AS made, sum(cents) AS cents, sum(confirmed) AS confirmed
    FROM seen
    GROUP BY card_id, seen_on
),
cards AS (
    SELECT
        card_id,
        seen_on,
        made AS made_1, sum(made) OVER week AS made_7, sum(made) OVER month AS made_30,
        cents AS cents_1, sum(cents) OVER week AS cents_7, sum(cents) OVER month AS cents_30,
        confirmed AS confirmed_1, sum(confirmed) OVER week AS confirmed_7, sum(confirmed) OVER month AS confirmed_30
    FROM card_days
    WINDOW
        week AS (
            PARTITION BY card_id ORDER BY seen_on - DATE '2000-01-01' RANGE BETWEEN 6 PRECEDING AND CURRENT ROW
        ),
        month AS (
            PARTITION BY card_id ORDER BY seen_on - DATE '2000-01-01' RANGE BETWEEN 29 PRECEDING AND CURRENT ROW
        )
),
terminal_days AS (
    SELECT terminal_id, seen_on, sum(made) AS made, sum(cents) AS cents, sum(confirmed) AS confirmed
    FROM seen
    GROUP BY terminal_id, seen_on
),
terminals AS (
    SELECT
        terminal_id,
        seen_on,
        made AS made_1, sum(made) OVER week AS made_7, sum(made) OVER month AS made_30,
        cents AS cents_1, sum(cents) OVER week AS cents_7, sum(cents) OVER month AS cents_30,
        confirmed AS confirmed_1, sum(confirmed) OVER week AS confirmed_7, sum(confirmed) OVER month AS confirmed_30
    FROM terminal_days
    WINDOW
        week AS (
            PARTITION BY terminal_id ORDER BY seen_on - DATE '2000-01-01' RANGE BETWEEN 6 PRECEDING AND CURRENT ROW
        ),
        month AS (
            PARTITION BY terminal_id ORDER BY seen_on - DATE '2000-01-01' RANGE BETWEEN 29 PRECEDING AND CURRENT ROW
        )
),
known AS (
    -- A fraud that was confirmed on its own day tells of itself: it is taken out of its own counts.
    SELECT *, CASE WHEN confirmed_on = made_on THEN 1 ELSE 0 END AS itself
    FROM transactions
)
SELECT
    k.transaction_id,
    k.made_on,
    k.card_group,
    k.terminal_group,
    k.card_id,
    k.currency,
    CASE WHEN k.confirmed_on IS NOT NULL THEN k.made_on END AS event_date,
    k.confirmed_on,
    k.settled_on,
    k.amount,
    CAST(1 AS DOUBLE PRECISION) AS loss_share,
    CAST(EXTRACT(HOUR FROM k.made_at) AS INTEGER) AS hour,
    CASE WHEN EXTRACT(ISODOW FROM k.made_at) > 5 THEN 1 ELSE 0 END AS weekend,
    CAST(k.cents * c.made_30 AS DOUBLE PRECISION) / NULLIF(c.cents_30, 0) AS amount_to_card_mean,
    CAST(k.cents * t.made_30 AS DOUBLE PRECISION) / NULLIF(t.cents_30, 0) AS amount_to_terminal_mean,
    c.made_1 AS card_count_1,
    c.made_7 AS card_count_7,
    c.made_30 AS card_count_30,
    c.cents_1 / 100.0 AS card_sum_1,
    c.cents_7 / 100.0 AS card_sum_7,
    c.cents_30 / 100.0 AS card_sum_30,
    CAST(c.confirmed_1 - k.itself AS DOUBLE PRECISION) / c.made_1 AS card_fraud_rate_1,
    CAST(c.confirmed_7 - k.itself AS DOUBLE PRECISION) / c.made_7 AS card_fraud_rate_7,
    CAST(c.confirmed_30 - k.itself AS DOUBLE PRECISION) / c.made_30 AS card_fraud_rate_30,
    t.made_1 AS terminal_count_1,
    t.made_7 AS terminal_count_7,
    t.made_30 AS terminal_count_30,
    t.cents_1 / 100.0 AS terminal_sum_1,
    t.cents_7 / 100.0 AS terminal_sum_7,
    t.cents_30 / 100.0 AS terminal_sum_30,
    CAST(t.confirmed_1 - k.itself AS DOUBLE PRECISION) / t.made_1 AS terminal_fraud_rate_1,
    CAST(t.confirmed_7 - k.itself AS DOUBLE PRECISION) / t.made_7 AS terminal_fraud_rate_7,
    CAST(t.confirmed_30 - k.itself AS DOUBLE PRECISION) / t.made_30 AS terminal_fraud_rate_30
FROM known AS k
JOIN cards AS c ON c.card_id = k.card_id AND c.seen_on = k.made_on
JOIN terminals AS t ON t.terminal_id = k.terminal_id AND t.seen_on = k.made_on
