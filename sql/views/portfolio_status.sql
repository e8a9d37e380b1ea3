-- One row a portfolio, by the clock of whoever asks: how old its newest night is, which nights are owed, how its last attempts
-- ended, how old its model is. `status` is red where somebody must act, amber for an old model, grey where nothing is due.
CREATE VIEW metarisk.portfolio_status AS
WITH told AS (
    SELECT
        t.*, first_told_at,
        date_trunc('day', (now() - t.grace_minutes * INTERVAL '1 minute') AT TIME ZONE t.start_timezone)
            + t.start_minute * INTERVAL '1 minute' AS start_that_day,
        (now() - t.grace_minutes * INTERVAL '1 minute') AT TIME ZONE t.start_timezone AS graced
    FROM metarisk.portfolio AS t
    JOIN (
        SELECT portfolio, max(seq) AS seq, min(told_at) AS first_told_at FROM metarisk.portfolio GROUP BY portfolio
    ) AS newest ON newest.portfolio = t.portfolio AND newest.seq = t.seq
), started AS (
    SELECT
        told.*,
        (start_that_day - CASE WHEN start_that_day > graced THEN INTERVAL '1 day' ELSE INTERVAL '0 day' END)
            AT TIME ZONE start_timezone AS last_start
    FROM told
), dated AS (
    SELECT
        started.*,
        CAST(last_start AT TIME ZONE timezone AS DATE) - 1 AS due_until,
        CAST(now() AT TIME ZONE timezone AS DATE) AS today,
        n.first_as_of
    FROM started
    LEFT JOIN (SELECT portfolio, min(as_of) AS first_as_of FROM metarisk.publication_current GROUP BY portfolio) AS n
        ON n.portfolio = started.portfolio
), day AS (
    SELECT d.portfolio, CAST(g.moment AS DATE) AS as_of
    FROM dated AS d
    CROSS JOIN LATERAL generate_series(
        CAST(least(coalesce(d.first_as_of, d.due_until - 366), d.due_until - 366) AS TIMESTAMP), CAST(d.due_until AS TIMESTAMP), INTERVAL '1 day'
    ) AS g(moment)
), due AS (
    SELECT day.portfolio, day.as_of, max(day.as_of) OVER (PARTITION BY day.portfolio) AS newest_due
    FROM day
    JOIN dated AS d ON d.portfolio = day.portfolio
    LEFT JOIN (
        SELECT portfolio, as_of, due, row_number() OVER (PARTITION BY portfolio, as_of ORDER BY seq DESC) AS place
        FROM metarisk.calendar_date
    ) AS c ON c.portfolio = day.portfolio AND c.as_of = day.as_of AND c.place = 1
    WHERE CASE d.calendar
        WHEN 'business' THEN extract(ISODOW FROM day.as_of) < 6
        WHEN 'month_end' THEN extract(DAY FROM day.as_of + 1) = 1
        WHEN 'table' THEN coalesce(c.due, false)
        ELSE true
    END
), owed AS (
    SELECT due.portfolio, count(*) AS nights, min(due.as_of) AS oldest, max(due.as_of) AS newest
    FROM due
    JOIN dated AS d ON d.portfolio = due.portfolio
    WHERE d.scheduled
      AND (due.as_of >= d.first_as_of OR (d.first_as_of IS NULL AND d.first_told_at <= d.last_start))
      AND (due.as_of = due.newest_due OR (d.catch_up = 'all' AND d.first_as_of IS NOT NULL))
      AND NOT EXISTS (SELECT 1 FROM metarisk.publication AS p WHERE p.portfolio = due.portfolio AND p.as_of = due.as_of)
    GROUP BY due.portfolio
), pause AS (
    SELECT portfolio, max(days) AS longest
    FROM (
        SELECT portfolio, as_of - lag(as_of) OVER (PARTITION BY portfolio ORDER BY as_of) AS days
        FROM (
            SELECT portfolio, as_of, due, row_number() OVER (PARTITION BY portfolio, as_of ORDER BY seq DESC) AS place
            FROM metarisk.calendar_date
        ) AS ranked
        WHERE place = 1 AND due
    ) AS gaps
    GROUP BY portfolio
), tried AS (
    SELECT
        a.*,
        row_number() OVER (PARTITION BY portfolio, job ORDER BY started_at DESC, ended_at DESC NULLS FIRST) AS place,
        row_number() OVER (PARTITION BY portfolio ORDER BY started_at DESC, ended_at DESC NULLS FIRST) AS last_place
    FROM (
        SELECT portfolio, coalesce(job, 'night') AS job, as_of, outcome, step, error, started_at, ended_at FROM metarisk.attempt
    ) AS a
), failed AS (
    SELECT
        portfolio, job, outcome,
        'the last ' || job || ' (' || as_of || ') '
            || CASE outcome WHEN 'died' THEN 'died' WHEN 'source_late' THEN 'found its source late' ELSE 'failed' END
            || coalesce(' in step ' || step, '') || coalesce(': ' || error, '') AS said
    FROM tried
    WHERE place = 1 AND outcome IN ('failed', 'source_late', 'died')
), champion AS (
    SELECT c.*, row_number() OVER (PARTITION BY c.portfolio ORDER BY c.as_of DESC, c.since DESC, c.seq DESC) AS place
    FROM (
        SELECT m.portfolio, m.model_id, m.as_of, m.recipe, s.since, s.seq
        FROM metarisk.model AS m
        JOIN metarisk.model_state AS s ON s.model_id = m.model_id AND s.state = 'champion'
        JOIN metarisk.model_current AS n ON n.model_id = m.model_id AND n.state <> 'withdrawn'
        JOIN dated AS d ON d.portfolio = m.portfolio AND m.as_of <= d.today
    ) AS c
), standing AS (
    SELECT
        d.portfolio, d.title, d.scheduled, d.calendar, d.timezone, d.today, d.max_model_age_days,
        p.as_of AS newest_night, CAST(d.today - p.as_of AS INTEGER) AS night_age_days, p.published_at, d.due_until,
        coalesce(o.nights, 0) AS nights_owed, o.oldest AS oldest_owed, o.newest AS newest_owed,
        d.scheduled AND d.calendar = 'table' AND coalesce(d.today - p.as_of > 2 * pause.longest, false) AS is_stale,
        t.job AS last_job, t.as_of AS last_as_of, t.outcome AS last_outcome, t.step AS last_step, t.error AS last_error,
        t.started_at AS last_started_at, t.ended_at AS last_ended_at, night.said AS night_failure, week.said AS week_failure,
        m.model_id, m.recipe, m.as_of AS model_as_of, CAST(d.today - m.as_of AS INTEGER) AS model_age_days,
        CAST(CASE WHEN d.scheduled THEN d.today ELSE p.as_of END - m.as_of AS INTEGER) AS judged_age_days,
        coalesce(alert.open, 0) AS open_alerts
    FROM dated AS d
    LEFT JOIN metarisk.publication_current AS p ON p.portfolio = d.portfolio AND p.is_latest AND p.run_id IS NOT NULL
    LEFT JOIN owed AS o ON o.portfolio = d.portfolio
    LEFT JOIN pause ON pause.portfolio = d.portfolio
    LEFT JOIN tried AS t ON t.portfolio = d.portfolio AND t.last_place = 1
    LEFT JOIN failed AS night ON night.portfolio = d.portfolio AND night.job = 'night'
    LEFT JOIN failed AS week ON week.portfolio = d.portfolio AND week.job = 'week'
    LEFT JOIN champion AS m ON m.portfolio = d.portfolio AND m.place = 1
    LEFT JOIN (SELECT portfolio, count(*) AS open FROM metarisk.drift_alert_open GROUP BY portfolio) AS alert
        ON alert.portfolio = d.portfolio
)
SELECT
    portfolio, title, scheduled, calendar, timezone, newest_night, night_age_days, published_at, due_until, nights_owed,
    oldest_owed, newest_owed, last_job, last_as_of, last_outcome, last_step, last_error, last_started_at, last_ended_at,
    night_failure, week_failure, is_stale, model_id, recipe, model_as_of, model_age_days,
    judged_age_days AS model_judged_age_days, max_model_age_days, open_alerts,
    CASE
        WHEN night_failure IS NOT NULL OR week_failure IS NOT NULL OR nights_owed > 0 OR is_stale THEN 'red'
        WHEN scheduled AND model_id IS NULL THEN 'red'
        WHEN judged_age_days > max_model_age_days THEN 'amber'
        WHEN last_outcome = 'running' AND last_started_at < now() - INTERVAL '1 day' THEN 'amber'
        WHEN scheduled THEN 'green'
        ELSE 'grey'
    END AS status,
    CASE
        WHEN night_failure IS NOT NULL THEN night_failure
        WHEN week_failure IS NOT NULL THEN week_failure
        WHEN nights_owed > 0 THEN nights_owed || ' owed, ' || oldest_owed || ' to ' || newest_owed
        WHEN is_stale THEN 'the newest night is ' || night_age_days || ' days old, and the calendar knows no later one'
        WHEN scheduled AND model_id IS NULL THEN 'no champion: run the weekly'
        WHEN judged_age_days > max_model_age_days THEN 'the model is ' || judged_age_days
            || ' days old, more than max_model_age_days = ' || max_model_age_days || ': run the weekly'
        WHEN last_outcome = 'running' AND last_started_at < now() - INTERVAL '1 day'
            THEN 'an attempt runs for more than a day: `metarisk status` says whether it lives'
        WHEN NOT scheduled THEN 'no schedule: no night is due'
    END AS status_reason
FROM standing;
