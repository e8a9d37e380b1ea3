"""What pages show of scorecards: grades, the riskiest rows with their reasons, calibration, back-tests, groups."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import polars as pl

from metarisk import evidence as evidences
from metarisk import report
from metarisk.job.context import Context
from metarisk.job.run import Run, score_files
from metarisk.job.week import Judged, Trained
from metarisk.metrics import Interval, ReliabilityBin, reliability
from metarisk.moves import PARTS
from metarisk.steps.attribute import LOSS, MEAN, move_of
from metarisk.tasks import LABEL

MOST_TOLD = 8


def grades(context: Context, run: Run, before: pl.LazyFrame | None) -> tuple[report.GradeBar, ...]:
    """Every grade of the scale, best first; none where the target has none."""
    about = pl.len().alias("rows"), pl.col("score").mean(), pl.col("expected_loss").sum()
    now = pl.scan_parquet(score_files(run)).drop_nulls("grade").group_by("grade").agg(*about).collect()
    found = {row["grade"]: row for row in now.iter_rows(named=True)}
    last: dict[str, int] | None = None
    if before is not None and "grade" in before.collect_schema():
        last = dict(before.drop_nulls("grade").group_by("grade").len().collect().iter_rows())
    return tuple(
        report.GradeBar(
            grade.name,
            found[grade.name]["rows"] if grade.name in found else 0,
            last.get(grade.name, 0) if last is not None else None,
            found[grade.name]["score"] if grade.name in found else None,
            (found[grade.name]["expected_loss"] or None) if grade.name in found else None,
        )
        for grade in (context.portfolio.scorecard.grades if found else ())
    )


_MEASURES = {MEAN: ("Mean score", ".4~%"), LOSS: ("Expected loss", ",.0f")}


def waterfalls(context: Context, moves: pl.DataFrame) -> tuple[report.Waterfall, ...]:
    """Why the whole portfolio's numbers moved; none where a night has no row of them."""
    whole = moves.filter(pl.col("segment").is_null()).drop_nulls(["value_before", "value_after"])
    out = []
    for row in whole.iter_rows(named=True):
        title, form = _MEASURES[row["measure"]]
        probability = row["measure"] != MEAN or context.spec.label == "event"
        out.append(
            report.Waterfall(
                title,
                str(row["before_as_of"]),
                str(context.job.as_of),
                row["value_before"],
                row["value_after"],
                tuple(move_of(row).told),
                form if probability else ".4~g",
            )
        )
    return tuple(out)


def moved_by(moves: pl.DataFrame) -> dict[str, str]:
    """By segment: what moved its mean score most."""
    parts = [f"from_{part}" for part in PARTS]
    rows = moves.filter((pl.col("measure") == MEAN) & pl.col("segment").is_not_null()).drop_nulls(parts)
    found = {}
    for row in rows.iter_rows(named=True):
        heaviest = max(PARTS, key=lambda part: abs(row[f"from_{part}"]))
        if row[f"from_{heaviest}"]:
            found[row["segment"]] = PARTS[heaviest]
    return found


def extrapolated(run: Run) -> tuple[tuple[str, int, int], ...]:
    """Segments with rows outside of what labelled rows show: name, rows, such rows; none where nobody asked."""
    marked = pl.scan_parquet(score_files(run)).drop_nulls("extrapolated").group_by("segment")
    counts = marked.agg(pl.len().alias("rows"), pl.col("extrapolated").sum().alias("outside"))
    counts = counts.filter(pl.col("outside") > 0)
    return tuple(counts.sort("outside", "segment", descending=[True, False]).collect().iter_rows())


def riskiest(run: Run) -> tuple[report.Told, ...]:
    """The riskiest rows that have reasons."""
    told = pl.scan_parquet(score_files(run)).drop_nulls("reasons")
    worst = told.sort("score", "entity", descending=[True, False]).head(MOST_TOLD).collect()
    return tuple(
        report.Told(
            row["entity"],
            row["segment"],
            row["score"],
            row["grade"] or "",
            row["points"],
            tuple((reason["text"], reason["points"]) for reason in json.loads(row["reasons"])),
        )
        for row in worst.iter_rows(named=True)
    )


def reliability_of(context: Context, judged: Judged) -> tuple[ReliabilityBin, ...]:
    """Reliability of the chosen recipe on the rows that judged it."""
    rows = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    recipe = judged.decision.recipe
    if rows.is_empty() or recipe not in rows.columns or context.spec.label != "event":
        return ()
    return reliability(1 / (1 + np.exp(-rows[recipe].to_numpy())), rows[LABEL].to_numpy())


def segment_losses(context: Context, judged: Judged) -> tuple[report.SegmentLoss, ...]:
    """Where the chosen recipe loses to the opponent and where it wins, the worst segment first."""
    rows = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    found: list[dict[str, Any]] = evidences.by_segment(rows, judged.decision.recipe, context.portfolio, context.spec)
    lines = [
        report.SegmentLoss(
            row["slice"],
            row["rows"],
            row["events"],
            Interval(row["value"], row["low"], row["high"]),
            row["note"].startswith("worse"),
        )
        for row in found
    ]
    return tuple(sorted(lines, key=lambda line: (-line.difference.mean, line.segment)))


def held_out(judged: Judged) -> tuple[report.HeldOutLine, ...]:
    """What the chosen recipe made of segments that were held out of its training, by the events it was shown."""
    by_slice: dict[str, list[dict[str, Any]]] = {}
    for row in judged.held_out:
        by_slice.setdefault(str(row["slice"]), []).append(row)
    lines = []
    for name, rows in by_slice.items():
        losses = {row["candidate"]: row["value"] for row in rows if row["metric"] == judged.evidence.loss}
        gains = {
            row["metric"]: Interval(row["value"], row["low"], row["high"]) for row in rows if row["low"] is not None
        }
        first, k = rows[0], int(name.removeprefix("k="))
        others = [(n, loss, gains[f"loss_minus_{n}"]) for n, loss in losses.items() if n != first["candidate"]]
        lines.append(report.HeldOutLine(k, first["rows"], first["events"], first["value"], tuple(others)))
    return tuple(lines)


def level(judged: Judged) -> str:
    """One sentence on the level."""
    choice = judged.level
    if not choice.tried:
        return ""
    rule, gain = min(choice.tried, key=lambda one: one[1].mean)
    span = f"{1e4 * gain.mean:+z.1f} [{1e4 * gain.low:+z.1f}, {1e4 * gain.high:+z.1f}] x 1e-4 of loss"
    if choice.rule.months:
        return f"Nights follow the level of the latest {rule.months} known months: on validation rows that gave {span}."
    return f"The level is left alone: following the latest {rule.months} known months gave {span}, no certain gain."


def stability(trained: Trained) -> str:
    """One sentence on reasons."""
    found = trained.comparison
    if found is None:
        return ""
    share = f"{found.changed:.1%} have another first reason"
    return f"Of the {found.told:,} riskiest rows, {share} than by model `{found.before}`."


def backtests(trained: Trained) -> tuple[report.BacktestLine, ...]:
    """Back-tests of published scores, by cohort and grade."""
    names = [field.name for field in fields(report.BacktestLine)]
    return tuple(report.BacktestLine(**row) for row in trained.backtests.select(names).iter_rows(named=True))


def groups(trained: Trained) -> tuple[report.GroupLine, ...]:
    """Adverse impact and calibration of each group, side by side."""
    by_group: dict[str, dict[str, dict[str, Any]]] = {}
    for row in trained.fairness:
        by_group.setdefault(str(row["slice"]), {})[str(row["metric"])] = row
    lines = []
    for group, metrics in by_group.items():
        impact, fit = metrics.get("adverse_impact_ratio", {}), metrics.get("event_rate_over_mean_score")
        lines.append(
            report.GroupLine(
                group,
                impact.get("rows", 0),
                impact.get("value"),
                Interval(fit["value"], fit["low"], fit["high"]) if fit else None,
                impact.get("note", ""),
            )
        )
    return tuple(lines)


def swaps(trained: Trained) -> tuple[report.SwapLine, ...]:
    """Who is newly declined or accepted: in all, then the segments with the most of them."""
    lines = [
        report.SwapLine(row["slice"], row["metric"].replace("_", " "), row["rows"], row["value"])
        for row in (trained.comparison.swaps if trained.comparison else ())
    ]
    return tuple(sorted(lines, key=lambda line: (line.segment != "all", -line.rows, line.segment)))


def migration(context: Context, trained: Trained) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Rows from each grade (one line) to each grade (one number), best first; grades without rows on both sides go."""
    if trained.comparison is None or not trained.comparison.migration:
        return ()
    names = [grade.name for grade in context.portfolio.scorecard.grades]
    found = {row["slice"]: row["rows"] for row in trained.comparison.migration}
    return tuple((old, tuple(found.get(f"{old} to {new}", 0) for new in names)) for old in names)
