"""Alerts in the warehouse: opened and closed with a run, acknowledged and muted by people, told within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from metarisk.domain import Scalar, Transaction
from metarisk.domain.hashing import identity
from metarisk.drift.alerts import OPENING, Key, Open, follow
from metarisk.job.context import Context

SCHEMA: dict[str, Any] = {
    "portfolio": pl.String, "seq": pl.Int64, "alert_id": pl.String, "as_of": pl.Date,
    "happened_at": pl.Datetime("us", "UTC"), "event": pl.String, "segment": pl.String, "feature": pl.String,
    "metric": pl.String, "status": pl.String, "detail": pl.String, "told": pl.String, "author": pl.String,
    "muted_until": pl.Date, "run_id": pl.String,
}  # fmt: skip
PORTFOLIO_WIDE = "drift.portfolio"
"""Event that a portfolio-wide alert raises; prefect.yaml lets it start the weekly flow."""
ALERT = "drift.alert"
"""Event that the messages of a night raise; a notice tells of it."""
BUDGET_DAYS = 7
_NOISY = """
SELECT d.as_of, d.segment, d.feature, d.metric
FROM metarisk.drift_metric AS d
JOIN metarisk.publication_current AS p ON p.run_id = d.run_id
WHERE p.portfolio = $portfolio AND p.as_of >= $first AND p.as_of < $as_of AND d.status <> 'ok'
"""


def of_run(context: Context, transaction: Transaction, run_id: str, folder: Path) -> pl.DataFrame:
    """Rows for `drift_alert` of a run that is about to be published; none where a newer night is published already.

    Alerts follow time: what a backfill finds of the past is history and concerns nobody today.
    """
    job, limits = context.job, context.portfolio.thresholds
    about: dict[str, Scalar] = {"portfolio": job.portfolio, "as_of": job.as_of}
    nights = [
        row["as_of"]
        for row in transaction.rows(
            "SELECT as_of FROM metarisk.publication_current WHERE portfolio = $portfolio ORDER BY as_of DESC",
            {"portfolio": job.portfolio},
        )
    ]
    if nights and nights[0] > job.as_of:
        return pl.DataFrame(schema=SCHEMA)
    before = [night for night in nights if night < job.as_of][: limits.alert_close_nights - 1]
    noisy: dict[date, set[Key]] = {night: set() for night in before}
    if before:
        for row in transaction.rows(_NOISY, about | {"first": before[-1]}):
            if row["metric"] in OPENING:
                noisy[row["as_of"]].add(_key(row))
    told = transaction.rows(
        "SELECT count(*) AS n FROM metarisk.drift_alert WHERE portfolio = $portfolio AND event = 'opened' "
        "AND told = 'message' AND as_of > $first",
        {"portfolio": job.portfolio, "first": job.as_of - timedelta(days=BUDGET_DAYS)},
    )[0]["n"]
    muted: dict[Key, date] = {}
    for row in transaction.rows(
        "SELECT segment, feature, metric, muted_until FROM metarisk.drift_alert "
        "WHERE portfolio = $portfolio AND event = 'muted'",
        {"portfolio": job.portfolio},
    ):
        muted[_key(row)] = max(row["muted_until"], muted.get(_key(row), date.min))
    events = follow(
        pl.read_parquet(folder / "drift.parquet"),
        [Open(row["alert_id"], _key(row)) for row in transaction.rows(_OPEN, {"portfolio": job.portfolio})],
        list(noisy.values()), muted, as_of=job.as_of, room=limits.alert_budget - told,
        close_after=limits.alert_close_nights,
    )  # fmt: skip
    lines = [
        _line(context, event.key, event.alert_id, event.event, event.status, event.detail, event.told, "metarisk")
        | {"run_id": run_id}
        for event in events
    ]
    return _numbered(transaction, job.portfolio, lines)


_OPEN = "SELECT alert_id, segment, feature, metric FROM metarisk.drift_alert_open WHERE portfolio = $portfolio"


def tell(context: Context, run_id: str, page: Path) -> None:
    """Say what a published run opened: messages within the budget, a digest, an event where the portfolio drifts.

    Args:
        page: the drift page of the run.
    """
    rows = context.warehouse.rows(
        "SELECT alert_id, segment, feature, metric, status, detail, told FROM metarisk.drift_alert "
        "WHERE portfolio = $portfolio AND run_id = $run_id AND event = 'opened' ORDER BY seq",
        {"portfolio": context.job.portfolio, "run_id": run_id},
    )
    about: dict[str, str | Path] = {
        "portfolio": context.job.portfolio, "as_of": str(context.job.as_of), "run_id": run_id, "page": page
    }  # fmt: skip
    messages = [sentence(row) for row in rows if row["told"] == "message"]
    for message in messages:
        context.reporter.warn(f"{context.job.portfolio} {context.job.as_of}: {message}")
    if messages:
        remedy = f"see the page; then `metarisk drift ack` or `mute` with --portfolio {context.job.portfolio}"
        context.reporter.event(ALERT, about | {"alerts": "; ".join(messages), "remedy": remedy})
    rest = [row for row in rows if row["told"] == "digest"]
    if rest:
        title = f"Drift digest of {context.job.portfolio} {context.job.as_of}"
        context.reporter.table("drift-digest", title, [{name: row[name] or "" for name in row} for row in rest])
    wide = [row for row in rows if row["segment"] is None and row["told"] != "nobody"]
    if wide:
        context.reporter.event(PORTFOLIO_WIDE, about | {"alerts": "; ".join(map(sentence, wide))})


def what(row: Mapping[str, Any]) -> str:
    """What an alert is about: its feature, or its measure in words."""
    measure = str(row["metric"])
    return str(row["feature"] or {"concept": "what scores mean"}.get(measure, measure.replace("_", " ")))


def sentence(row: Mapping[str, Any]) -> str:
    """An alert in words."""
    word = "drift alert" if row["status"] == "alert" else row["status"]
    where = row["segment"] or "the whole portfolio"
    return f"{word}: {what(row)} in {where} ({row['detail'] or row['metric']}); alert {row['alert_id']}"


def _key(row: Mapping[str, Any]) -> Key:
    return row["segment"], row["feature"], row["metric"]


def _line(
    context: Context,
    key: Key,
    alert_id: str | None,
    event: str,
    status: str,
    detail: str | None,
    told: str,
    author: str,
) -> dict[str, Any]:
    segment, feature, metric = key
    job = context.job
    parts = {"portfolio": job.portfolio, "as_of": str(job.as_of), "segment": repr(segment), "feature": repr(feature)}
    return {
        "portfolio": job.portfolio, "alert_id": alert_id or identity(parts | {"metric": metric})[:12],
        "as_of": job.as_of, "happened_at": context.clock(), "event": event, "segment": segment, "feature": feature,
        "metric": metric, "status": status, "detail": detail, "told": told, "author": author,
    }  # fmt: skip


def _numbered(transaction: Transaction, portfolio: str, lines: list[dict[str, Any]]) -> pl.DataFrame:
    last = transaction.rows(
        "SELECT max(seq) AS last FROM metarisk.drift_alert WHERE portfolio = $portfolio", {"portfolio": portfolio}
    )[0]["last"]
    return pl.DataFrame(
        [line | {"seq": (last or 0) + place} for place, line in enumerate(lines, start=1)], schema=SCHEMA
    )
