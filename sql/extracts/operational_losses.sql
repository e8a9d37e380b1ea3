-- Site x event type x quarter by $as_of: losses that happened in the quarter and were known when it became final.
WITH counted AS (
    SELECT x.unit_id, x.event_type, x.quarter_start, COUNT(DISTINCT l.loss_id) AS events
    FROM source.demo_op_exposures AS x
    JOIN source.demo_op_losses AS l
        ON l.unit_id = x.unit_id AND l.event_type = x.event_type
        AND l.occurred_on >= x.quarter_start AND l.occurred_on < x.quarter_end AND l.known_on <= x.final_on
    WHERE l.amount > 0 AND x.final_on <= $as_of
    GROUP BY x.unit_id, x.event_type, x.quarter_start
),
-- What was known at the opening of the losses of the year before it.
before AS (
    SELECT x.unit_id, x.event_type, x.quarter_start, COUNT(DISTINCT l.loss_id) AS events
    FROM source.demo_op_exposures AS x
    JOIN source.demo_op_losses AS l
        ON l.unit_id = x.unit_id AND l.event_type = x.event_type
        AND l.occurred_on < x.quarter_start AND l.occurred_on >= x.quarter_start - INTERVAL '1' YEAR
        AND l.known_on <= x.quarter_start
    WHERE l.amount > 0 AND x.quarter_start <= $as_of
    GROUP BY x.unit_id, x.event_type, x.quarter_start
)
SELECT
    x.unit_id || ':' || x.event_type AS exposure_id,
    x.quarter_start AS opened_on,
    x.business_line,
    x.event_type,
    CASE WHEN x.final_on <= $as_of THEN CAST(COALESCE(c.events, 0) AS DOUBLE PRECISION) END AS events,
    CASE WHEN x.final_on <= $as_of THEN x.final_on END AS known_date,
    x.exposure,
    x.legal_entity,
    x.staff_turnover,
    x.automation,
    x.control_score,
    x.overtime,
    x.backlog_days,
    CAST(COALESCE(b.events, 0) AS DOUBLE PRECISION) / NULLIF(x.exposure, 0) AS rate_before
FROM source.demo_op_exposures AS x
LEFT JOIN counted AS c
    ON c.unit_id = x.unit_id AND c.event_type = x.event_type AND c.quarter_start = x.quarter_start
LEFT JOIN before AS b
    ON b.unit_id = x.unit_id AND b.event_type = x.event_type AND b.quarter_start = x.quarter_start
WHERE x.quarter_start <= $as_of
