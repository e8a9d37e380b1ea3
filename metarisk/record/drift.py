"""Drift: what nights measured, and alerts with everything that happened to them."""

from __future__ import annotations

from datetime import date
from typing import Any

from metarisk.domain import Rows

_PSI = """
SELECT d.as_of, d.segment, d.feature, d.effect, d.status FROM metarisk.drift_metric AS d
JOIN metarisk.publication_current AS p ON p.run_id = d.run_id
WHERE p.portfolio = $portfolio AND d.metric = 'psi' AND p.as_of >= $first AND p.as_of <= $as_of
ORDER BY d.as_of
"""
_SEGMENTS = """
SELECT s.segment, s.status, s.data_status, s.performance_status, s.label_status, s.judged_at, s.min_detectable_ratio,
    d.value AS ratio, d.detail
FROM metarisk.segment_status AS s
LEFT JOIN metarisk.drift_metric AS d ON d.run_id = s.run_id AND d.segment = s.segment AND d.metric = 'early_events'
WHERE s.run_id = $run_id
ORDER BY s.segment
"""
_OPEN = """
SELECT * FROM metarisk.drift_alert_open WHERE portfolio = $portfolio ORDER BY opened_as_of, alert_id
"""
_EVENTS = """
SELECT e.as_of, e.event, e.segment, e.feature, e.metric, e.detail, e.author, e.muted_until, e.told
FROM metarisk.drift_alert AS e
WHERE e.portfolio = $portfolio AND e.as_of <= $as_of AND e.as_of > $since
AND NOT EXISTS (SELECT 1 FROM metarisk.retracted_run AS t WHERE t.run_id = e.run_id)
ORDER BY e.seq DESC
"""


def psi_history(source: Rows, portfolio: str, first: date, as_of: date) -> list[dict[str, Any]]:
    """PSI of each segment and feature in the nights that stand from `first` to `as_of`, in their order."""
    return source.rows(_PSI, {"portfolio": portfolio, "first": first, "as_of": as_of})


def segment_statuses(source: Rows, run_id: str) -> list[dict[str, Any]]:
    """How a run found each segment, with its early events."""
    return source.rows(_SEGMENTS, {"run_id": run_id})


def open_alerts(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Alerts that are open now, the oldest first."""
    return source.rows(_OPEN, {"portfolio": portfolio})


def alert_events(source: Rows, portfolio: str, since: date, as_of: date) -> list[dict[str, Any]]:
    """What happened to alerts after `since` up to `as_of`, newest first; what a retracted run found is left out."""
    return source.rows(_EVENTS, {"portfolio": portfolio, "since": since, "as_of": as_of})
