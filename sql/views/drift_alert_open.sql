-- Alerts that are open, with who acknowledged them and until when they are muted. What a run that was taken back opened or
-- closed does not count.
CREATE VIEW metarisk.drift_alert_open AS
SELECT
    o.portfolio, o.alert_id, o.as_of AS opened_as_of, o.happened_at AS opened_at, o.segment, o.feature, o.metric, o.status,
    o.detail, o.told, a.acknowledged_at, a.acknowledged_by, a.muted_until, a.muted_by, o.run_id
FROM metarisk.drift_alert AS o
JOIN (
    SELECT
        e.portfolio, e.alert_id,
        max(CASE WHEN e.event = 'opened' THEN e.seq END) AS opened,
        max(CASE WHEN e.event = 'acknowledged' THEN e.happened_at END) AS acknowledged_at,
        max(CASE WHEN e.event = 'acknowledged' THEN e.author END) AS acknowledged_by,
        max(e.muted_until) AS muted_until,
        max(CASE WHEN e.event = 'muted' THEN e.author END) AS muted_by,
        max(CASE WHEN e.event = 'closed' THEN 1 ELSE 0 END) AS closed
    FROM metarisk.drift_alert AS e
    LEFT JOIN metarisk.retracted_run AS t ON t.run_id = e.run_id
    WHERE t.run_id IS NULL
    GROUP BY e.portfolio, e.alert_id
) AS a ON a.portfolio = o.portfolio AND a.opened = o.seq
WHERE a.closed = 0;
