"""The report pages of a night and of a week: their values gathered from the run's files and the warehouse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metarisk import quality, registry, report
from metarisk.adapt import BASELINES
from metarisk.domain import RiskSpec, segment_name
from metarisk.evidence import Evidence, words_of
from metarisk.job.champion import champion_for
from metarisk.job.context import Context
from metarisk.job.identity import code_version
from metarisk.job.run import Run, load_adapted, score_files
from metarisk.job.storage import from_registry
from metarisk.job.week import Trained
from metarisk.metrics import Interval, judge_of
from metarisk.pages import cards
from metarisk.pages import drift as driftpages
from metarisk.pages.model_card import write_card
from metarisk.record import models, publications
from metarisk.steps import alerts as alerting
from metarisk.steps.derive import DERIVED, MEASURES

BINS = 40
MOST_COLOURS = 6


def night_page(context: Context, run_id: str) -> Path:
    """Where the page of a run is."""
    return folder(context) / f"{context.job.as_of}-{run_id}.html"


def report_night(
    context: Context,
    run: Run,
    guarded: quality.Quality,
    drift_folder: Path,
    moves_folder: Path,
    publication: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Path:
    """Write the page of a published night."""
    before, moves = _last_run(context), pl.read_parquet(moves_folder / "moves.parquet")
    whole = moves.filter(pl.col("segment").is_null()).head(1)
    path = night_page(context, run.run_id)
    lines = _drift(drift_folder)
    champion = _champion(context, run.model_id, run.recipe, run.cut_off)
    drifted = path.with_name(f"drift-{path.name}")
    write(drifted, driftpages.page(context, run, drift_folder, lines, champion, path.name))
    page = report.NightReport(
        title=context.portfolio.title or context.portfolio.name,
        portfolio=context.portfolio.name,
        as_of=context.job.as_of,
        run_id=run.run_id,
        mode=context.job.mode,
        outcome="published",
        reason=publication["reason"] or "",
        published_at=publication["published_at"],
        champion=champion,
        score_unit=context.spec.unit_of(context.portfolio),
        rows_extracted=run.extract.rows,
        rows_scored=publication["rows_scored"],
        rows_quarantined=run.checked.quality.excluded_rows,
        steps=tuple(report.Step(name, value) for name, value in seconds.items()),
        quality=(*_quality(run.checked.quality), *_quality(guarded)),
        segments=_segments(context, run, before, cards.moved_by(moves)),
        scores=_histogram(context, run, before),
        grades=cards.grades(context, run, before),
        riskiest=cards.riskiest(run),
        moves=cards.waterfalls(context, moves),
        rows_entered=int(whole["rows_entered"].sum()),
        rows_left=int(whole["rows_left"].sum()),
        extrapolated=cards.extrapolated(run),
        measures=_measured(run),
        drift=lines,
        drift_page=drifted.name,
        evidence=_evidence_of(context, run.model_id),
        warnings=(*run.extract.warnings, *([champion.too_old] if champion.too_old else [])),
        next_steps=_next_steps(context, champion),
        provenance={
            "extract": run.extract.extract_hash,
            "configuration": run.config_hash,
            "code": run.code_version,
        },
    )
    write(path, report.render_night(page))
    retracted_page(context).unlink(missing_ok=True)
    context.reporter.link(f"report-{context.job.portfolio}", f"Report of {context.job.as_of}", path)
    context.reporter.link(f"drift-page-{context.job.portfolio}", f"Drift of {context.job.as_of}", drifted)
    alerting.tell(context, run.run_id, drifted)
    return path


def report_week(
    context: Context, trained: Trained, registered: Mapping[str, Any], seconds: Mapping[str, float]
) -> Path:
    """Write the page of a week."""
    judged = trained.judged
    decision = judged.decision
    waits = not registered["promoted"]
    approve = f"metarisk models approve -p {context.job.portfolio}"
    best = next((line.name for line in judged.evidence.candidates), decision.recipe)
    page = report.WeekReport(
        title=context.portfolio.title or context.portfolio.name,
        portfolio=context.portfolio.name,
        as_of=context.job.as_of,
        run_id=judged.week_id,
        decision="waiting" if waits else "kept" if decision.recipe == judged.champion_recipe else "promoted",
        reason=decision.reason,
        champion=scoring_now(context),
        challenger="" if best == decision.recipe and not waits else best,
        training_rows=trained.rows,
        training_events=trained.events,
        training_segments=trained.segments,
        steps=tuple(report.Step(name, value) for name, value in seconds.items()),
        quality=_quality(judged.checked.quality),
        evidence=_evidence(judged.evidence, decision.recipe, context.spec),
        segment_losses=cards.segment_losses(context, judged),
        held_out=cards.held_out(judged),
        reliability=cards.reliability_of(context, judged),
        level=cards.level(judged),
        stability=cards.stability(trained),
        swaps=cards.swaps(trained),
        migration=cards.migration(context, trained),
        backtests=cards.backtests(trained),
        groups=cards.groups(trained),
        similarity=_similarity(context, trained.model_id),
        warnings=(*judged.checked.extract.warnings, *judged.warnings, *_unproved(judged.evidence)),
        next_steps=(f"{approve} --model {trained.model_id} --by NAME --reason WHY",) if waits else (),
        provenance={"extract": judged.checked.extract.extract_hash, "code": code_version()},
    )
    path = write(folder(context) / f"week-{context.job.as_of}-{judged.week_id}.html", report.render_week(page))
    write_card(context, trained.model_id)
    context.reporter.link(f"week-{context.job.portfolio}", f"Week of {context.job.as_of}", path)
    return path


def scoring_now(context: Context) -> report.Champion | None:
    """The model that a night of this as_of takes."""
    champion = champion_for(context)
    return None if champion is None else _champion(context, champion.model_id, champion.recipe, champion.as_of)


def _champion(context: Context, model_id: str, recipe: str, cut_off: date) -> report.Champion:
    age = (context.job.as_of - cut_off).days
    return report.Champion(model_id, recipe, cut_off, age, context.portfolio.thresholds.max_model_age_days)


def folder(context: Context) -> Path:
    """Where the pages of a portfolio are."""
    return context.settings.data_dir / "reports" / context.job.portfolio


def retracted_page(context: Context) -> Path:
    """Where the page of a night that was taken back is; it goes when the night is published again."""
    return folder(context) / f"{context.job.as_of}-retracted.html"


def write(path: Path, html: str) -> Path:
    """Write a page beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(html, encoding="utf-8")
    beside.replace(path)
    return path


def _quality(found: quality.Quality) -> tuple[report.QualityCheck, ...]:
    return tuple(
        report.QualityCheck(
            suite=found.suite,
            rule=result.rule,
            severity=result.severity,
            passed=result.success,
            failing=result.failing_rows or 0,
            rows=result.total_rows or 0,
            column=result.column,
            observed=result.detail,
        )
        for result in found.results
    )


def _last_run(context: Context) -> pl.LazyFrame | None:
    """Scores of the newest night before this one, if the lake still has them."""
    rows = publications.nights(context.warehouse, context.job.portfolio, context.job.as_of)
    if not rows:
        return None
    root = context.settings.data_dir / "lake" / context.job.portfolio / str(rows[0]["as_of"]) / "runs"
    files = sorted((root / rows[0]["run_id"] / "score").glob("*.parquet"))
    return pl.scan_parquet(files).with_columns(pl.lit(str(rows[0]["as_of"])).alias("night")) if files else None


def _segments(
    context: Context, run: Run, before: pl.LazyFrame | None, moved_by: Mapping[str, str]
) -> tuple[report.SegmentLine, ...]:
    adapted = load_adapted(context, run)
    known = {segment_name(key): segment for key, segment in adapted.segments.items()}
    summary = pl.len().alias("rows"), pl.col("status").first(), pl.col("score").mean().alias("mean")
    now = pl.scan_parquet(score_files(run)).group_by("segment").agg(*summary).sort("segment")
    if before is not None:
        now = now.join(before.group_by("segment").agg(pl.col("score").mean().alias("last")), on="segment", how="left")
    lines = []
    for row in now.sort("segment").collect().iter_rows(named=True):
        segment = known.get(row["segment"])
        lines.append(
            report.SegmentLine(
                name=row["segment"],
                status=row["status"],
                rows=row["rows"],
                support_rows=segment.support_rows if segment else 0,
                support_events=segment.support_events if segment else 0,
                mean_score=row["mean"],
                last_mean_score=row.get("last"),
                reason=segment.reason if segment else "no matured row of its own: scored from its parents and the pool",
                moved_by=moved_by.get(row["segment"], ""),
            )
        )
    return tuple(lines)


def _histogram(context: Context, run: Run, before: pl.LazyFrame | None) -> report.ScoreHistogram:
    now = pl.scan_parquet(score_files(run))
    bounds = (
        now.select(
            pl.col("score").quantile(0.001).alias("low"),
            pl.col("score").quantile(0.999).alias("high"),
            pl.col("score").min().alias("min"),
        )
        .collect()
        .row(0, named=True)
    )
    log = bounds["min"] > 0
    low, high = bounds["low"], max(bounds["high"], bounds["low"] * (1 + 1e-6) + 1e-12)
    edges = np.geomspace(low, high, BINS + 1) if log else np.linspace(low, high, BINS + 1)
    return report.ScoreHistogram(
        edges=tuple(float(edge) for edge in edges),
        now=_counts(now, edges),
        before=_counts(before, edges) if before is not None else None,
        before_label=before.select(pl.col("night").first()).collect().item() if before is not None else "last run",
        axis=context.spec.unit_of(context.portfolio),
        log_scale=log,
        number_format=".1%" if context.spec.label == "event" else ".2~g",
    )


def _counts(frame: pl.LazyFrame, edges: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Rows a bin; what lies outside the edges counts in the outermost bins."""
    inner = pl.Series([float(edge) for edge in edges[1:-1]])
    bins = frame.select(pl.lit(inner).search_sorted(pl.col("score"), side="left").alias("bin"))
    found = dict(bins.group_by("bin").len().collect().iter_rows())
    return tuple(found.get(i, 0) for i in range(len(inner) + 1))


def _drift(folder: Path) -> tuple[report.DriftLine, ...]:
    columns = (
        "segment",
        "level",
        "feature",
        "metric",
        "status",
        "value",
        "effect",
        "threshold",
        "n_ref",
        "n_cur",
        "q",
        "low",
        "high",
    )
    found = pl.read_parquet(folder / "drift.parquet").with_columns(
        pl.col("segment", "feature", "detail").fill_null(""), pl.col("n_ref", "n_cur").fill_null(0)
    )
    return tuple(report.DriftLine(**row) for row in found.select(*columns, "detail").iter_rows(named=True))


def _unproved(evidence: Evidence) -> tuple[str, ...]:
    return (f"retrospective evidence proves nothing: {evidence.retrospective}",) if evidence.retrospective else ()


def _evidence(evidence: Evidence, chosen: str, spec: RiskSpec) -> report.Evidence | None:
    if not evidence.candidates:
        return None
    lines = [
        report.EvidenceLine(
            candidate=line.name,
            loss=line.metrics[evidence.loss],
            ranking=line.metrics[evidence.ranking],
            difference=line.against_opponent,
            against_oracle=line.against_oracle,
            role="champion" if line.name == chosen else "baseline" if line.baseline else "candidate",
        )
        for line in evidence.candidates
    ]
    loss, ranking = (words_of(name) for name in (evidence.loss, evidence.ranking))
    events = f" with {evidence.events:,} events" if spec.label == "event" else ""
    note = (
        f"{evidence.rows:,} rows{events}, opened in {len(evidence.folds)} windows after the labels that taught; labels "
        f"as they were known at each cut; difference in {loss} with a 95 % interval by bootstrap over opening month x "
        "segment"
    )
    if evidence.retrospective:
        note += f". Retrospective: {evidence.retrospective}, so it proves nothing"
    return report.Evidence(tuple(lines), evidence.opponent, evidence.oracle, note, loss, ranking)


def _similarity(context: Context, model_id: str) -> tuple[report.MapPoint, ...]:
    """The map of segments that came with the model, coloured by the part of the key that has the fewest values."""
    files = from_registry(context, model_id, registry.load)
    places = json.loads(files["likeness.json"])
    parts = list(zip(*(place["segment"] for place in places), strict=True))
    distinct = [len(set(part)) for part in parts]
    colour = distinct.index(min(distinct)) if distinct and min(distinct) <= MOST_COLOURS else None
    return tuple(
        report.MapPoint(
            name=segment_name(tuple(place["segment"])),
            x=place["x"],
            y=place["y"],
            rows=place["support_rows"],
            group=place["segment"][colour] if colour is not None else "",
            nearest=tuple(segment_name(tuple(key)) for key in place["nearest"]),
        )
        for place in places
    )


def _evidence_of(context: Context, model_id: str) -> report.Evidence | None:
    """The evidence that came with a model, read back from the warehouse."""
    found = models.evidence(context.warehouse, model_id)
    rows = [row for row in found if row["slice"] == "all" and row["protocol"] == "walk_forward"]
    model = models.model(context.warehouse, model_id)
    if not rows or model is None:
        return None
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["candidate"], {})[row["metric"]] = row
    about = json.loads(model["metrics"])
    lines, judge = [], judge_of(context.spec.likelihood)
    for name, metrics in by_name.items():
        opposed, oracle = (metrics.get(f"loss_minus_{other}") for other in ("opponent", "oracle"))
        lines.append(
            report.EvidenceLine(
                candidate=name,
                loss=metrics[judge.loss]["value"],
                ranking=metrics[judge.ranking]["value"],
                difference=_interval(opposed),
                against_oracle=_interval(oracle),
                role="champion" if name == model["recipe"] else "baseline" if name in BASELINES else "candidate",
            )
        )
    lines.sort(key=lambda line: line.loss)
    events = f" with {rows[0]['events']:,} events" if context.spec.label == "event" else ""
    note = f"{rows[0]['rows']:,} rows{events}; {rows[0]['note']}"
    names = (words_of(name) for name in (judge.loss, judge.ranking))
    return report.Evidence(tuple(lines), about.get("opponent", ""), about.get("oracle", ""), note, *names)


def _interval(row: Mapping[str, Any] | None) -> Interval | None:
    """The interval of a row of `evidence`; None where it has none."""
    if row is None or row["value"] is None or row["low"] is None or row["high"] is None:
        return None
    return Interval(row["value"], row["low"], row["high"])


def _measured(run: Run) -> tuple[report.MeasureRow, ...]:
    """What the risk type published beside the scores, in its order."""
    file = run.folder / DERIVED / MEASURES
    if not file.exists():
        return ()
    return tuple(report.MeasureRow(**row) for row in pl.read_parquet(file).iter_rows(named=True))


def _next_steps(context: Context, champion: report.Champion) -> tuple[str, ...]:
    job = context.job
    if not champion.too_old:
        return ()
    return (f"Train on newer labels: `metarisk weekly --portfolio {job.portfolio} --as-of {job.as_of}`.",)
