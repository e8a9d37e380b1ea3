-- Alerts that are open, with who acknowledged them and until when they are muted.
CREATE VIEW metarisk.drift_alert_open AS
SELECT
    o.portfolio, o.alert_id, o.as_of AS opened_as_of, o.happened_at AS opened_at, o.segment, o.feature, o.metric, o.status,
    o.detail, o.told, a.acknowledged_at, a.acknowledged_by, a.muted_until, a.muted_by, o.run_id
FROM metarisk.drift_alert AS o
LEFT JOIN (
    SELECT
        portfolio, alert_id,
        max(CASE WHEN event = 'acknowledged' THEN happened_at END) AS acknowledged_at,
        max(CASE WHEN event = 'acknowledged' THEN author END) AS acknowledged_by,
        max(muted_until) AS muted_until,
        max(CASE WHEN event = 'muted' THEN author END) AS muted_by,
        max(CASE WHEN event = 'closed' THEN 1 ELSE 0 END) AS closed
    FROM metarisk.drift_alert
    GROUP BY portfolio, alert_id
) AS a ON a.portfolio = o.portfolio AND a.alert_id = o.alert_id
WHERE o.event = 'opened' AND a.closed = 0;
