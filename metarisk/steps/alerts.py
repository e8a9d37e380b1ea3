"""Alerts in the warehouse: opened and closed with a run, acknowledged and muted by people, told within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from metarisk.domain import Transaction
from metarisk.domain.hashing import identity
from metarisk.drift import OPENING
from metarisk.drift.alerts import Key, Open, follow
from metarisk.job.context import Context
from metarisk.record import drift as records
from metarisk.record import publications

PORTFOLIO_WIDE = "drift.portfolio"
"""Event that a portfolio-wide alert raises; prefect.yaml lets it start the weekly flow."""
ALERT = "drift.alert"
"""Event that the messages of a night raise; a notice tells of it."""
BUDGET_DAYS = 7


def alerts_of_run(context: Context, transaction: Transaction, run_id: str, folder: Path) -> list[dict[str, Any]]:
    """Rows for `drift_alert` of a run that is about to be published; none where a newer night is published already.

    Alerts follow time: what a backfill finds of the past is history and concerns nobody today.
    """
    job, limits = context.job, context.portfolio.thresholds
    nights = [row["as_of"] for row in publications.nights(transaction, job.portfolio)]
    if nights and nights[0] > job.as_of:
        return []
    before = [night for night in nights if night < job.as_of][: limits.alert_close_nights - 1]
    noisy: dict[date, set[Key]] = {night: set() for night in before}
    if before:
        for row in records.not_ok(transaction, job.portfolio, before[-1], job.as_of):
            if row["metric"] in OPENING:
                noisy[row["as_of"]].add(records.key_of(row))
    told = records.messages_since(transaction, job.portfolio, job.as_of - timedelta(days=BUDGET_DAYS))
    opened = records.open_alerts(transaction, job.portfolio)
    events = follow(
        pl.read_parquet(folder / "drift.parquet"),
        [Open(row["alert_id"], records.key_of(row)) for row in opened],
        list(noisy.values()),
        records.muted(transaction, job.portfolio),
        as_of=job.as_of,
        room=limits.alert_budget - told,
        close_after=limits.alert_close_nights,
    )
    return [
        alert_line(context, event.key, event.alert_id, event.event, event.status, event.detail, event.told, "metarisk")
        | {"run_id": run_id}
        for event in events
    ]


def tell(context: Context, run_id: str, page: Path) -> None:
    """Say what a published run opened: messages within the budget, a digest, an event where the portfolio drifts.

    Args:
        page: the drift page of the run.
    """
    rows = records.opened_by(context.warehouse, context.job.portfolio, run_id)
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


def alert_line(
    context: Context,
    key: Key,
    alert_id: str | None,
    event: str,
    status: str,
    detail: str | None,
    told: str,
    author: str,
) -> dict[str, Any]:
    """A row of `drift_alert` less its number and the run."""
    segment, feature, metric = key
    job = context.job
    parts = {"portfolio": job.portfolio, "as_of": str(job.as_of), "segment": repr(segment), "feature": repr(feature)}
    return {
        "alert_id": alert_id or identity(parts | {"metric": metric})[:12],
        "as_of": job.as_of, "happened_at": context.clock(), "event": event, "segment": segment, "feature": feature,
        "metric": metric, "status": status, "detail": detail, "told": told, "author": author,
    }  # fmt: skip
