-- Each segment of the latest night by what the drift watch says of it: the worst finding, and how each kind stands. Where
-- a doubled event rate could not have been seen it is blind, whatever else is ok.
CREATE VIEW metarisk.segment_status AS
SELECT
    portfolio, as_of, segment,
    CASE
        WHEN concept = 4 THEN 'concept drift suspected'
        WHEN greatest(data, performance, labels, concept) >= 3 THEN 'alert'
        WHEN greatest(data, performance, labels, concept, volume) = 2 THEN 'watch'
        WHEN labels = 1 THEN 'blind'
        ELSE 'ok'
    END AS status,
    CASE data WHEN 3 THEN 'alert' WHEN 2 THEN 'watch' WHEN 0 THEN 'ok' ELSE 'blind' END AS data_status,
    CASE performance WHEN 3 THEN 'alert' WHEN 2 THEN 'watch' WHEN 0 THEN 'ok' ELSE 'blind' END AS performance_status,
    CASE labels WHEN 3 THEN 'alert' WHEN 2 THEN 'watch' WHEN 0 THEN 'ok' ELSE 'blind' END AS label_status,
    judged_at, min_detectable_ratio, run_id
FROM (
    SELECT
        portfolio, as_of, segment, run_id,
        coalesce(max(CASE WHEN metric = 'psi' THEN badness END), 1) AS data,
        coalesce(max(CASE WHEN metric IN ('expected_log_loss', 'expected_auc', 'expected_loss') THEN badness END), 1)
            AS performance,
        coalesce(
            max(CASE WHEN metric IN ('early_events', 'early_auc') AND badness > 1 THEN badness END),
            max(CASE WHEN metric = 'early_events' THEN badness END), 1
        ) AS labels,
        coalesce(max(CASE WHEN metric = 'concept' THEN badness END), 1) AS concept,
        coalesce(max(CASE WHEN metric = 'volume' THEN badness END), 1) AS volume,
        max(CASE WHEN metric = 'early_events' THEN level END) AS judged_at,
        max(CASE WHEN metric = 'early_events' THEN min_detectable_ratio END) AS min_detectable_ratio
    FROM (
        SELECT
            portfolio, as_of, segment, metric, level, min_detectable_ratio, run_id,
            CASE status
                WHEN 'concept drift suspected' THEN 4 WHEN 'alert' THEN 3 WHEN 'watch' THEN 2 WHEN 'ok' THEN 0 ELSE 1
            END AS badness
        FROM metarisk.drift_current
        WHERE segment IS NOT NULL
    ) AS scored
    GROUP BY portfolio, as_of, segment, run_id
    HAVING max(CASE WHEN metric = 'volume' THEN 1 ELSE 0 END) = 1
) AS graded;
