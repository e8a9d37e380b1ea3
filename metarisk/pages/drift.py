"""The drift page of a published run, gathered from its files and the warehouse."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from metarisk import registry
from metarisk.domain import Scalar
from metarisk.drift import REMEDY
from metarisk.drift.pictures import Side, side_by_side
from metarisk.job.context import Context
from metarisk.job.run import Run
from metarisk.job.storage import from_registry
from metarisk.report import Champion, DriftLine
from metarisk.report.driftpage import AlertLine, DriftReport, SegmentLineStatus, Worst, render_drift
from metarisk.steps.alerts import what
from metarisk.steps.drift import COUNTED, HISTOGRAMS, WORST

NIGHTS = 30
_HISTORY = """
SELECT d.as_of, d.segment, d.feature, d.effect, d.status FROM metarisk.drift_metric AS d
JOIN metarisk.publication_current AS p ON p.run_id = d.run_id
WHERE p.portfolio = $portfolio AND d.metric = 'psi' AND p.as_of >= $first AND p.as_of <= $as_of
ORDER BY d.as_of
"""
_FIRST = """
SELECT min(as_of) AS first FROM (
    SELECT as_of FROM metarisk.publication_current WHERE portfolio = $portfolio AND as_of <= $as_of
    ORDER BY as_of DESC LIMIT 30
) AS nights
"""
_SEGMENTS = """
SELECT s.segment, s.status, s.data_status, s.performance_status, s.label_status, s.judged_at, s.min_detectable_ratio,
    d.value AS ratio, d.detail
FROM metarisk.segment_status AS s
LEFT JOIN metarisk.drift_metric AS d ON d.run_id = s.run_id AND d.segment = s.segment AND d.metric = 'early_events'
WHERE s.run_id = $run_id
ORDER BY s.segment
"""
_EVENTS = """
SELECT e.as_of, e.event, e.segment, e.feature, e.metric, e.detail, e.author, e.muted_until, e.told
FROM metarisk.drift_alert AS e
WHERE e.portfolio = $portfolio AND e.as_of <= $as_of AND e.as_of > $since
AND NOT EXISTS (SELECT 1 FROM metarisk.retracted_run AS t WHERE t.run_id = e.run_id)
ORDER BY e.seq DESC
"""


def page(
    context: Context, run: Run, folder: Path, lines: Sequence[DriftLine], champion: Champion, night_page: str
) -> str:
    """The drift page as HTML text.

    Args:
        folder: what the drift step left.
        lines: its rows.
        night_page: address of the night's page, seen from this one.
    """
    job = context.job
    return render_drift(
        DriftReport(
            title=context.portfolio.title or context.portfolio.name,
            portfolio=job.portfolio,
            as_of=job.as_of,
            run_id=run.run_id,
            night_page=night_page,
            champion=champion,
            lines=tuple(lines),
            alerts=_alerts(context),
            worst=_worst(context, run.model_id, folder, lines),
            segments=_segments(context, run.run_id),
            months=tuple(
                (int(line.feature), line.value or 0.0, line.low or 0.0, line.high or 0.0)
                for line in lines
                if line.metric == "month_on_book"
            ),
            done=(*(line.detail for line in lines if line.metric == REMEDY), *_done(context)),
            provenance={"extract": run.extract.extract_hash, "code": run.code_version},
        )
    )


def sides(context: Context, model_id: str, folder: Path, segment: str | None, feature: str) -> tuple[Side, ...]:
    """A feature before and now; empty where the run counted nothing, or its model's reference is gone."""
    files = from_registry(context, model_id, registry.load)
    if HISTOGRAMS not in files or not (folder / COUNTED).exists():
        return ()
    reference = pl.read_parquet(io.BytesIO(files[HISTOGRAMS]))
    return side_by_side(reference, pl.read_parquet(folder / COUNTED), segment, feature)


def _worst(context: Context, model_id: str, folder: Path, lines: Sequence[DriftLine]) -> tuple[Worst, ...]:
    moved = [line for line in lines if line.metric == "psi" and line.status in ("alert", "watch")]
    chosen = sorted(moved, key=lambda line: (line.status, -(line.effect or 0.0), line.segment))[:WORST]
    parameters: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of}
    first = context.warehouse.rows(_FIRST, parameters)[0]["first"] or context.job.as_of
    wanted = {(line.segment, line.feature) for line in chosen}
    nights: dict[tuple[str, str], list[tuple[date, float | None, str]]] = {}
    for row in context.warehouse.rows(_HISTORY, parameters | {"first": first}):
        if (key := (row["segment"] or "", row["feature"] or "")) in wanted:
            nights.setdefault(key, []).append((row["as_of"], row["effect"], row["status"]))
    return tuple(
        Worst(
            line,
            sides(context, model_id, folder, line.segment or None, line.feature),
            tuple(nights.get((line.segment, line.feature), ())),
        )
        for line in chosen
    )


def _alerts(context: Context) -> tuple[AlertLine, ...]:
    rows = context.warehouse.rows(
        "SELECT * FROM metarisk.drift_alert_open WHERE portfolio = $portfolio AND opened_as_of <= $as_of "
        "ORDER BY opened_as_of DESC, alert_id",
        {"portfolio": context.job.portfolio, "as_of": context.job.as_of},
    )
    return tuple(
        AlertLine(
            row["alert_id"], row["segment"] or "", what(row), row["status"], row["opened_as_of"], row["detail"] or "",
            row["told"], row["acknowledged_by"] or "",
            row["muted_until"] if row["muted_until"] and row["muted_until"] >= context.job.as_of else None,
        )
        for row in rows
    )  # fmt: skip


def _segments(context: Context, run_id: str) -> tuple[SegmentLineStatus, ...]:
    return tuple(
        SegmentLineStatus(
            row["segment"], row["status"], row["data_status"], row["performance_status"], row["label_status"],
            row["judged_at"] or "–", row["ratio"], row["min_detectable_ratio"], row["detail"] or "",
        )
        for row in context.warehouse.rows(_SEGMENTS, {"run_id": run_id})
    )  # fmt: skip


def _done(context: Context) -> list[str]:
    """What happened to alerts in the last weeks, in sentences, newest first."""
    since = context.job.as_of - timedelta(days=NIGHTS)
    parameters: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of, "since": since}
    asked = "an event asked the weekly flow to start early"
    return [
        _sentence(row) if row["event"] != "opened" else f"{row['as_of']}: {what(row)} in the whole portfolio: {asked}."
        for row in context.warehouse.rows(_EVENTS, parameters)
        if row["event"] != "opened" or (row["segment"] is None and row["told"] != "nobody")
    ]


def _sentence(row: Mapping[str, Any]) -> str:
    where = row["segment"] or "the whole portfolio"
    told = f"{row['as_of']}: {row['event']}"
    if row["event"] == "muted":
        told += f" until {row['muted_until']}"
    by = f" by {row['author']}" if row["author"] != "metarisk" else ""
    return f"{told}{by}: {what(row)} in {where} ({row['detail'] or '-'})."
