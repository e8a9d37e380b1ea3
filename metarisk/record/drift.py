"""Drift: what nights measured, and alerts with everything that happened to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from metarisk.domain import Rows, Transaction
from metarisk.record.appending import append

Key = tuple[str | None, str | None, str]
"""Segment, feature and metric."""

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
_FOUND = """
SELECT segment, level, feature, metric, value, effect, threshold, n_ref, n_cur, p, q, low, high, min_detectable_ratio,
    status, detail
FROM metarisk.drift_metric WHERE run_id = $run_id
ORDER BY
    CASE status WHEN 'concept drift suspected' THEN 0 WHEN 'alert' THEN 1 WHEN 'watch' THEN 2
        WHEN 'ok' THEN 4 ELSE 3 END,
    abs(effect) DESC, metric, segment, feature
"""
_NOISY = """
SELECT d.as_of, d.segment, d.feature, d.metric
FROM metarisk.drift_metric AS d
JOIN metarisk.publication_current AS p ON p.run_id = d.run_id
WHERE p.portfolio = $portfolio AND p.as_of >= $first AND p.as_of < $as_of AND d.status <> 'ok'
"""
_MESSAGES = """
SELECT count(*) AS n FROM metarisk.drift_alert
WHERE portfolio = $portfolio AND event = 'opened' AND told = 'message' AND as_of > $since
"""
_MUTED = """
SELECT segment, feature, metric, max(muted_until) AS until FROM metarisk.drift_alert
WHERE portfolio = $portfolio AND event = 'muted' GROUP BY segment, feature, metric
"""
_OPENED = """
SELECT alert_id, segment, feature, metric, status, detail, told FROM metarisk.drift_alert
WHERE portfolio = $portfolio AND run_id = $run_id AND event = 'opened' ORDER BY seq
"""
_OPEN_THEN = """
SELECT o.segment FROM metarisk.drift_alert AS o
WHERE o.portfolio = $portfolio AND o.event = 'opened' AND o.as_of < $as_of AND o.segment IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM metarisk.retracted_run AS t WHERE t.run_id = o.run_id)
  AND NOT EXISTS (
    SELECT 1 FROM metarisk.drift_alert AS c
    WHERE c.portfolio = o.portfolio AND c.alert_id = o.alert_id AND c.event = 'closed' AND c.as_of < $as_of
      AND NOT EXISTS (SELECT 1 FROM metarisk.retracted_run AS t WHERE t.run_id = c.run_id)
  )
"""
_LAST = "SELECT coalesce(max(seq), 0) AS last FROM metarisk.drift_alert WHERE portfolio = $portfolio"
_ALERT: dict[str, Any] = {
    "portfolio": pl.String, "seq": pl.Int64, "alert_id": pl.String, "as_of": pl.Date,
    "happened_at": pl.Datetime("us", "UTC"), "event": pl.String, "segment": pl.String, "feature": pl.String,
    "metric": pl.String, "status": pl.String, "detail": pl.String, "told": pl.String, "author": pl.String,
    "muted_until": pl.Date, "run_id": pl.String,
}  # fmt: skip


def key_of(row: Mapping[str, Any]) -> Key:
    """What an alert or a finding is about: segment, feature and metric."""
    return row["segment"], row["feature"], row["metric"]


def findings(source: Rows, run_id: str) -> list[dict[str, Any]]:
    """What a run measured, the worst first."""
    return source.rows(_FOUND, {"run_id": run_id})


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


def not_ok(source: Rows, portfolio: str, first: date, before: date) -> list[dict[str, Any]]:
    """Night, segment, feature and metric of what was not ok in the nights that stand from `first` to before a date."""
    return source.rows(_NOISY, {"portfolio": portfolio, "first": first, "as_of": before})


def messages_since(source: Rows, portfolio: str, since: date) -> int:
    """Messages about alerts of nights after a date."""
    return int(source.rows(_MESSAGES, {"portfolio": portfolio, "since": since})[0]["n"])


def muted(source: Rows, portfolio: str) -> dict[Key, date]:
    """What nobody wants to hear of, and until when."""
    return {key_of(row): row["until"] for row in source.rows(_MUTED, {"portfolio": portfolio})}


def opened_by(source: Rows, portfolio: str, run_id: str) -> list[dict[str, Any]]:
    """Alerts that a run opened, in their order."""
    return source.rows(_OPENED, {"portfolio": portfolio, "run_id": run_id})


def drifting_segments(source: Rows, portfolio: str, as_of: date) -> list[str]:
    """Printable names of segments, cells or values of one column, with an alert that nights before as_of left open."""
    rows = source.rows(_OPEN_THEN, {"portfolio": portfolio, "as_of": as_of})
    return sorted({row["segment"] for row in rows})


def append_alerts(transaction: Transaction, portfolio: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append what happened to alerts, numbered after what happened before."""
    last = transaction.rows(_LAST, {"portfolio": portfolio})[0]["last"]
    numbered = [{**line, "portfolio": portfolio, "seq": seq} for seq, line in enumerate(lines, start=last + 1)]
    append(transaction, "drift_alert", pl.DataFrame(numbered, schema=_ALERT))
