"""Models: their rows, their states, and what speaks for them."""

from __future__ import annotations

from typing import Any

from metarisk.domain import Rows

_MODEL = "SELECT * FROM metarisk.model WHERE model_id = $model_id"
_STATES = """
SELECT seq, state, since, by_whom, reason FROM metarisk.model_state WHERE model_id = $model_id ORDER BY seq
"""
_EVIDENCE = """
SELECT protocol, candidate, slice, metric, value, low, high, rows, events, note FROM metarisk.evidence
WHERE model_id = $model_id
"""
_BACKTESTS = """
SELECT status, count(*) AS n, sum(rows) AS rows, sum(events) AS events, sum(rows * mean_score) AS expected
FROM metarisk.grade_backtest WHERE model_id = $model_id GROUP BY status ORDER BY status
"""


def model(source: Rows, model_id: str) -> dict[str, Any] | None:
    """The row of a model; None where there is none."""
    return next(iter(source.rows(_MODEL, {"model_id": model_id})), None)


def states(source: Rows, model_id: str) -> list[dict[str, Any]]:
    """All states of a model, the first one first."""
    return source.rows(_STATES, {"model_id": model_id})


def evidence(source: Rows, model_id: str) -> list[dict[str, Any]]:
    """What speaks for a model, in no order."""
    return source.rows(_EVIDENCE, {"model_id": model_id})


def grade_backtests(source: Rows, model_id: str) -> list[dict[str, Any]]:
    """By verdict, what the back-tested grades and cohorts of a model hold together."""
    return source.rows(_BACKTESTS, {"model_id": model_id})
