-- Features of each portfolio's latest night by how much they moved: in how many segments, and where most.
CREATE VIEW metarisk.drift_worst AS
SELECT
    portfolio, as_of, feature, place, segments_alert, segments_watch, segments_blind, segments_judged, largest_effect,
    worst_segment, worst_status, worst_detail
FROM (
    SELECT
        portfolio, as_of, feature, segments_alert, segments_watch, segments_blind, segments_judged, largest_effect,
        segment AS worst_segment, status AS worst_status, detail AS worst_detail,
        row_number() OVER (
            PARTITION BY portfolio ORDER BY segments_alert DESC, segments_watch DESC, largest_effect DESC, feature
        ) AS place
    FROM (
        SELECT
            portfolio, as_of, feature, segment, status, detail,
            count(CASE WHEN status = 'alert' THEN 1 END) OVER (PARTITION BY portfolio, feature) AS segments_alert,
            count(CASE WHEN status = 'watch' THEN 1 END) OVER (PARTITION BY portfolio, feature) AS segments_watch,
            count(CASE WHEN status = 'blind' THEN 1 END) OVER (PARTITION BY portfolio, feature) AS segments_blind,
            count(*) OVER (PARTITION BY portfolio, feature) AS segments_judged,
            max(effect) OVER (PARTITION BY portfolio, feature) AS largest_effect,
            row_number() OVER (
                PARTITION BY portfolio, feature
                ORDER BY
                    CASE status WHEN 'alert' THEN 0 WHEN 'watch' THEN 1 WHEN 'ok' THEN 2 ELSE 3 END,
                    coalesce(effect, -1) DESC, coalesce(segment, '')
            ) AS inside
        FROM metarisk.drift_current
        WHERE metric = 'psi' AND feature IS NOT NULL
    ) AS judged
    WHERE inside = 1
) AS ranked;
