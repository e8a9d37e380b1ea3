"""The drift page of a published run, gathered from its files and the warehouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from metarisk.drift import inputs
from metarisk.drift.pictures import Side, side_by_side
from metarisk.drift.remedy import REMEDY
from metarisk.job.context import Context
from metarisk.job.run import Run
from metarisk.record import drift as records
from metarisk.record import publications
from metarisk.report import Champion, DriftLine
from metarisk.report.driftpage import AlertLine, DriftReport, SegmentLineStatus, Worst, render_drift
from metarisk.steps.alerts import what
from metarisk.steps.drift import WORST, beside

NIGHTS = 30
"""Nights of a curve, and days of what happened to alerts."""


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


def feature_shares(
    context: Context, model_id: str, folder: Path, segment: str | None, feature: str
) -> tuple[Side, ...]:
    """A feature before and now; empty where the run counted nothing, or its model's reference is gone."""
    reference = inputs.known(beside(context, model_id))
    if reference is None or not (folder / inputs.COUNTED).exists():
        return ()
    return side_by_side(reference, pl.read_parquet(folder / inputs.COUNTED), segment, feature)


def _worst(context: Context, model_id: str, folder: Path, lines: Sequence[DriftLine]) -> tuple[Worst, ...]:
    moved = [line for line in lines if line.metric == "psi" and line.status in ("alert", "watch")]
    chosen = sorted(moved, key=lambda line: (line.status, -(line.effect or 0.0), line.segment))[:WORST]
    warehouse, portfolio, as_of = context.warehouse, context.job.portfolio, context.job.as_of
    shown = publications.nights(warehouse, portfolio, as_of + timedelta(days=1))[:NIGHTS]
    first = shown[-1]["as_of"] if shown else as_of
    wanted = {(line.segment, line.feature) for line in chosen}
    nights: dict[tuple[str, str], list[tuple[date, float | None, str]]] = {}
    for row in records.psi_history(warehouse, portfolio, first, as_of):
        if (key := (row["segment"] or "", row["feature"] or "")) in wanted:
            nights.setdefault(key, []).append((row["as_of"], row["effect"], row["status"]))
    return tuple(
        Worst(
            line,
            feature_shares(context, model_id, folder, line.segment or None, line.feature),
            tuple(nights.get((line.segment, line.feature), ())),
        )
        for line in chosen
    )


def _alerts(context: Context) -> tuple[AlertLine, ...]:
    known = records.open_alerts(context.warehouse, context.job.portfolio)
    rows = sorted(known, key=itemgetter("opened_as_of"), reverse=True)
    return tuple(
        AlertLine(
            row["alert_id"], row["segment"] or "", what(row), row["status"], row["opened_as_of"], row["detail"] or "",
            row["told"], row["acknowledged_by"] or "",
            row["muted_until"] if row["muted_until"] and row["muted_until"] >= context.job.as_of else None,
        )
        for row in rows if row["opened_as_of"] <= context.job.as_of
    )  # fmt: skip


def _segments(context: Context, run_id: str) -> tuple[SegmentLineStatus, ...]:
    return tuple(
        SegmentLineStatus(
            row["segment"], row["status"], row["data_status"], row["performance_status"], row["label_status"],
            row["judged_at"] or "–", row["ratio"], row["min_detectable_ratio"], row["detail"] or "",
        )
        for row in records.segment_statuses(context.warehouse, run_id)
    )  # fmt: skip


def _done(context: Context) -> list[str]:
    """What happened to alerts in the last weeks, in sentences, newest first."""
    since = context.job.as_of - timedelta(days=NIGHTS)
    asked = "an event asked the weekly flow to start early"
    return [
        _sentence(row) if row["event"] != "opened" else f"{row['as_of']}: {what(row)} in the whole portfolio: {asked}."
        for row in records.alert_events(context.warehouse, context.job.portfolio, since, context.job.as_of)
        if row["event"] != "opened" or (row["segment"] is None and row["told"] != "nobody")
    ]


def _sentence(row: Mapping[str, Any]) -> str:
    where = row["segment"] or "the whole portfolio"
    told = f"{row['as_of']}: {row['event']}"
    if row["event"] == "muted":
        told += f" until {row['muted_until']}"
    by = f" by {row['author']}" if row["author"] != "metarisk" else ""
    return f"{told}{by}: {what(row)} in {where} ({row['detail'] or '-'})."
