"""Attempts: a row when one begins, a row when it ends, and what its checks found."""

from __future__ import annotations

from datetime import date
from typing import Any

from metarisk.domain import Rows

_UNENDED = """
SELECT * FROM metarisk.attempt_start s
WHERE NOT EXISTS (SELECT 1 FROM metarisk.run_attempt e WHERE e.attempt_id = s.attempt_id)
ORDER BY s.started_at
"""
_ENDED = "SELECT 1 AS found FROM metarisk.run_attempt WHERE attempt_id = $attempt_id"
_SECONDS = """
SELECT step_seconds FROM metarisk.run_attempt WHERE run_id = $run_id AND outcome = 'published'
ORDER BY ended_at DESC LIMIT 1
"""
_LATEST = """
SELECT started_at, portfolio, job, as_of, mode, outcome, step, run_id, error FROM metarisk.attempt
WHERE $portfolio IS NULL OR portfolio = $portfolio ORDER BY started_at DESC
"""
_SHOWN = """
SELECT DISTINCT q.suite, q.rule, q.column_name, q.detail
FROM metarisk.quality_result AS q
JOIN metarisk.run_attempt AS a ON a.attempt_id = q.attempt_id
WHERE q.portfolio = $portfolio AND q.as_of = $as_of AND q.severity = 'critical' AND NOT q.success
AND a.outcome = 'failed' AND a.step = 'guard'
"""
_STOPPED = """
SELECT run_id, suite, rule, column_name AS "column" FROM metarisk.quality_result
WHERE portfolio = $portfolio AND run_id IS NOT NULL AND severity = 'critical' AND NOT success ORDER BY run_id
"""


def unended(source: Rows) -> list[dict[str, Any]]:
    """Attempts of all portfolios that have begun and not ended, the first one first."""
    return source.rows(_UNENDED)


def has_ended(source: Rows, attempt_id: str) -> bool:
    """Whether the end of an attempt is written."""
    return bool(source.rows(_ENDED, {"attempt_id": attempt_id}))


def step_seconds(source: Rows, run_id: str) -> str:
    """Seconds by step of the newest attempt that published a run, as JSON."""
    return next((row["step_seconds"] for row in source.rows(_SECONDS, {"run_id": run_id})), "{}")


def latest_attempts(source: Rows, portfolio: str | None, count: int) -> list[dict[str, Any]]:
    """The latest attempts of a portfolio, or of all, newest first."""
    return source.rows(_LATEST, {"portfolio": portfolio})[:count]


def stopped_by_guard(source: Rows, portfolio: str, as_of: date) -> set[tuple[str | None, ...]]:
    """Suite, rule, column and detail of the critical failures that stopped an attempt of a night in the guard."""
    return {tuple(row.values()) for row in source.rows(_SHOWN, {"portfolio": portfolio, "as_of": as_of})}


def published_failures(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Critical rules that failed for runs that were published all the same."""
    return source.rows(_STOPPED, {"portfolio": portfolio})
