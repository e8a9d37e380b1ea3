"""Runs: what each rests on, and which of them are old."""

from __future__ import annotations

from datetime import date
from typing import Any

from metarisk.domain import Rows

_RUN = """
SELECT r.run_id, r.portfolio, r.as_of, r.model_id, r.extract_hash, r.config_hash, r.code_version, m.recipe,
    m.as_of AS cut_off
FROM metarisk.run r
JOIN metarisk.model m ON m.model_id = r.model_id
WHERE r.run_id = $run_id
"""
_MANIFEST = "SELECT manifest FROM metarisk.run WHERE run_id = $run_id"
_RUNS = "SELECT run_id, as_of, model_id, manifest FROM metarisk.run WHERE portfolio = $portfolio"
OLD = """
SELECT r.run_id, r.as_of FROM metarisk.run r
WHERE r.portfolio = $portfolio AND r.as_of <= $cut
AND r.run_id NOT IN (
    SELECT c.run_id FROM metarisk.publication_current c
    WHERE c.portfolio = $portfolio AND c.as_of IN (
        SELECT max(as_of) FROM metarisk.publication_current WHERE portfolio = $portfolio
        GROUP BY date_trunc('month', as_of)
    )
)
ORDER BY r.as_of, r.run_id
"""


def run(source: Rows, run_id: str) -> dict[str, Any] | None:
    """The row of a run, with recipe and label cut-off of its model; None where there is none."""
    return next(iter(source.rows(_RUN, {"run_id": run_id})), None)


def manifest_of(source: Rows, run_id: str) -> str:
    """The manifest of a run that there is, as JSON."""
    return str(source.rows(_MANIFEST, {"run_id": run_id})[0]["manifest"])


def runs(source: Rows, portfolio: str) -> dict[str, dict[str, Any]]:
    """By id, as_of, model and manifest of every run of a portfolio."""
    return {row["run_id"]: row for row in source.rows(_RUNS, {"portfolio": portfolio})}


def old_runs(source: Rows, portfolio: str, cut: date) -> dict[str, date]:
    """Runs of nights up to `cut` with their nights, oldest first; those that are current at a month end are none."""
    return {row["run_id"]: row["as_of"] for row in source.rows(OLD, {"portfolio": portfolio, "cut": cut})}
