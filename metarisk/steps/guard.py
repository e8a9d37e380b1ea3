"""The step `guard`: what is about to be published, judged by the suite of the score table and as a night.

What the verdicts rest on is read here, from the run, the night before it and the warehouse; `quality.guarding` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl

from metarisk import lake, quality
from metarisk.calibration import GRADED, LEVELLED
from metarisk.domain import MISSING, Array, LikelihoodName, MetariskError, Portfolio
from metarisk.drift import histograms, inputs
from metarisk.job.acceptance import settled
from metarisk.job.context import Context
from metarisk.job.population import SCORE, linked
from metarisk.job.published import Night, night_of, scored_rows
from metarisk.job.run import Run, load_adapted, load_level, scan, score_files
from metarisk.portfolios import scores_suite_path
from metarisk.quality import guarding
from metarisk.quality.results import Result
from metarisk.record.publications import nights
from metarisk.scoring import mean_score
from metarisk.steps.drift import beside
from metarisk.tasks import horizon_end, population

MOST_COMPARED = 50_000
"""Rows of the last night, evenly chosen, that are scored again: enough for any median."""
FLOW = timedelta(days=7)
"""A book whose rows are scored for less than a week has weekdays; others score a stock that hardly moves in a night."""
_EDGE = 1e-12
_UNKNOWN_MODAL = 0.5
"""Where nothing is known of a model's scores: half of its rows may share one."""
Counts = Mapping[str, Mapping[str, float]]
"""By segment column and value, rows."""


def guard(context: Context, run: Run) -> quality.Quality:
    """Judge what is about to be published. A critical failure raises QualityError, unless a person accepts it."""
    lake.verify(run.folder / "score")
    now = _counts(context, run)
    found = quality.check(
        scores_suite_path(context.settings.project, context.portfolio),
        score_files(run),
        portfolio=context.portfolio,
        as_of=context.job.as_of,
        quarantine=run.folder / "quarantine",
        parameters=quality.score_parameters(context.spec.likelihood, _total(now)),
        memory_mb=context.settings.memory_mb,
        threads=context.settings.threads,
    )
    found = replace(found, results=(*found.results, *verdicts(context, run, now)))
    for warning in found.warnings:
        context.reporter.warn(f"{context.job.portfolio} {context.job.as_of}: {warning}")
    return settled(context, run.run_id, found)


def verdicts(context: Context, run: Run, now: Counts) -> Iterator[Result]:
    """What the night as a whole is judged on, each once; what could not be judged says why."""
    scores, rows = pl.scan_parquet(score_files(run)), _total(now)
    yield guarding.finite(rows, _broken(scores))
    yield _differ(context, run, scores, rows)
    last = _last_night(context)
    if context.spec.likelihood in GRADED:
        yield guarding.grades_differ(_grades(scores), None if isinstance(last, str) else _grades(_scores(last)))
    yield _enough(context, rows)
    yield from _stay(context, now, last)
    yield _same(context, run, last, rows)
    yield _level(context, scores, last, rows)


def _last_night(context: Context) -> Night | str:
    """The newest night before this one whose model was not withdrawn since; why nothing can be compared with it."""
    stand = nights(context.warehouse, context.job.portfolio, context.job.as_of)
    last = next((row for row in stand if not row["is_withdrawn"]), None)
    if last is None:
        return "no night is published before this one"
    try:
        night = night_of(context, last["run_id"])
        lake.verify(night.run.folder / "score")
    except MetariskError as error:
        return f"the night of {last['as_of']} cannot be read: {error.what}"
    columns, portfolio = set(scan(night.context, night.run.checked).collect_schema()), context.portfolio
    needed = (portfolio.columns.entity, portfolio.columns.opened_on, *portfolio.columns.segments, *portfolio.features)
    absent = [name for name in needed if name not in columns]
    if absent:
        return f"the night of {night.as_of} has no column {', '.join(absent)}"
    return night


def _total(counts: Counts) -> int:
    return int(sum(next(iter(counts.values())).values()))


def _counts(context: Context, run: Run, still: pl.Expr | None = None) -> Counts:
    """Rows of the run's population, or of those for which `still` holds, by segment column and value."""
    columns = context.portfolio.columns.segments
    rows = population(scan(context, run.checked), context.portfolio, context.job.as_of)
    keys = [pl.col(name).cast(pl.String).fill_null(MISSING) for name in columns]
    rows = (rows if still is None else rows.filter(still)).select(keys)
    cells = rows.group_by(*columns).agg(pl.len().alias("__rows")).collect(engine="streaming")
    return {name: dict(cells.group_by(name).agg(pl.col("__rows").sum()).sort(name).iter_rows()) for name in columns}


def _broken(scores: pl.LazyFrame) -> int:
    bad = pl.col("score").is_null() | ~pl.col("score").is_finite()
    for name in ("score_low", "score_high", "points", "expected_loss"):
        bad |= ~pl.col(name).is_finite().fill_null(True)
    return int(scores.select(bad.fill_null(True).sum()).collect(engine="streaming").item())


def _differ(context: Context, run: Run, scores: pl.LazyFrame, rows: int) -> Result:
    """Whether rows are told apart; their inputs are only counted where they are not."""
    low, high = scores.select(low=pl.col("score").min(), high=pl.col("score").max()).collect(engine="streaming").row(0)
    if low is None or low != high:
        return guarding.scores_differ(rows, rows, 0.0, 1.0, 0.0)
    columns = [*context.portfolio.features, *context.portfolio.columns.segments]
    frame = population(scan(context, run.checked), context.portfolio, context.job.as_of).select(dict.fromkeys(columns))
    inputs = frame.unique().select(pl.len()).collect(engine="streaming").item()
    return guarding.scores_differ(rows, inputs, low, high, _modal(context, run.model_id))


def _modal(context: Context, model_id: str) -> float:
    """Largest share of rows in a bin of the scores with which a model was registered."""
    known, target = inputs.known(beside(context, model_id)), context.portfolio.target.name
    counts = histograms.from_frame(known)[1].counts if known is not None else {}
    if target not in counts or not (bins := counts[target].sum(axis=0)).sum():
        return _UNKNOWN_MODAL
    return float(bins.max() / bins.sum())


def _scores(night: Night) -> pl.LazyFrame:
    return pl.scan_parquet(score_files(night.run))


def _grades(scores: pl.LazyFrame) -> dict[str, int]:
    return dict(scores.group_by("grade").len().sort("grade").collect(engine="streaming").iter_rows())


def is_flow(portfolio: Portfolio) -> bool:
    """Whether a night scores the rows of some days, and not a stock or each entity once."""
    target = portfolio.target
    short = not target.horizon_months and timedelta(days=target.horizon_days) < FLOW
    return portfolio.population != "latest" and short


def _enough(context: Context, rows: int) -> Result:
    portfolio, as_of = context.portfolio, context.job.as_of
    known = nights(context.warehouse, portfolio.name, as_of)
    counts = [(row["as_of"], row["rows_scored"]) for row in known if row["as_of"] >= as_of - guarding.OLDEST]
    usual = guarding.usual_rows(counts, as_of, by_weekday=is_flow(portfolio))
    share = portfolio.source.min_rows_vs_median
    return guarding.enough(rows, usual, share, by_chance=portfolio.population != "latest")


def _stay(context: Context, now: Counts, last: Night | str) -> Iterator[Result]:
    """Whether values of each segment column are still there.

    A stock is expected to be there as far as its horizon reaches; a book of few days or of entities, as it was.
    """
    portfolio, as_of = context.portfolio, context.job.as_of
    if not isinstance(last, str) and last.as_of < as_of - guarding.OLDEST:
        last = f"the last night is of {last.as_of}"
    if isinstance(last, str):
        for column in portfolio.columns.segments:
            yield guarding.unjudged(guarding.VALUES_STAY, last, _total(now), column)
        return
    lasting = portfolio.population == "latest" or is_flow(portfolio)
    still = None if lasting else horizon_end(portfolio, portfolio.target) > pl.lit(as_of)
    expected = _counts(last.context, last.run, still)
    least = portfolio.thresholds.limits(context.spec.limits).min_vanished_rows
    for column in portfolio.columns.segments:
        gone = [value for value, rows in expected[column].items() if rows >= least and not now[column].get(value)]
        excused = _excused(context, column, gone, last.as_of) if gone and is_flow(portfolio) else ()
        yield guarding.values_stay(column, expected[column], now[column], least, excused)


def _excused(context: Context, column: str, gone: Sequence[str], last: date) -> Sequence[str]:
    """Values without a row a week ago either; all of them where that night is not known and it was another half of the
    week at the last one."""
    as_of = context.job.as_of
    before = replace(context, job=replace(context.job, as_of=as_of - timedelta(days=6)))
    week_ago = _last_night(before)
    if not isinstance(week_ago, str) and week_ago.as_of == as_of - timedelta(days=7):
        there = _counts(week_ago.context, week_ago.run)[column]
        return [value for value in gone if value not in there]
    return gone if guarding.weekend(last) != guarding.weekend(as_of) else ()


def _same(context: Context, run: Run, last: Night | str, rows: int) -> Result:
    """Whether tonight's model scores the last night's rows as they were published."""
    if isinstance(last, str):
        return guarding.unjudged(guarding.SAME_SCORES, last, rows)
    try:
        before, after = _scored_again(context, run, last)
    except (MetariskError, pl.exceptions.PolarsError) as error:
        what = error.what if isinstance(error, MetariskError) else type(error).__name__
        why = f"the rows of {last.as_of} cannot be scored again: {what}"
        return guarding.unjudged(guarding.SAME_SCORES, why, rows)
    return guarding.same_scores(
        before,
        after,
        context.portfolio.thresholds.limits(context.spec.limits),
        scaled=context.spec.likelihood not in LEVELLED,
        same_recipe=last.run.recipe == run.recipe,
    )


def _scored_again(context: Context, run: Run, night: Night) -> tuple[Array, Array]:
    """Link-scale scores (N,) of rows of a night: as they were published, and by this run's model, labels and level."""
    adapted, level = load_adapted(context, run), load_level(run)
    counted = pl.scan_parquet(score_files(night.run)).select(pl.len()).collect().item()
    step, start = -(-counted // MOST_COMPARED) or 1, 0
    link, parts = link_of(context.spec.likelihood), []
    for frame in scored_rows(night):
        rows = frame.gather_every(step, -start % step)
        start += frame.height
        again = mean_score(adapted, linked(rows, adapted, context.portfolio, level))
        scores = pl.DataFrame({"before": rows[SCORE], "after": again})
        parts.append(scores.select(link(pl.col("before")), link(pl.col("after"))))
    found = pl.concat(parts) if parts else pl.DataFrame(schema={"before": pl.Float64, "after": pl.Float64})
    found = found.filter(pl.all_horizontal(pl.all().is_finite()))
    return found["before"].to_numpy(), found["after"].to_numpy()


def link_of(likelihood: LikelihoodName) -> Callable[[pl.Expr], pl.Expr]:
    """From a score to the scale on which it is compared: log-odds of a probability, the logarithm of what is positive,
    and any other number itself."""
    if likelihood in GRADED:
        return lambda score: (score.clip(_EDGE, 1 - _EDGE) / (1 - score.clip(_EDGE, 1 - _EDGE))).log()
    if likelihood in LEVELLED:
        return lambda score: score.clip(lower_bound=np.finfo(float).tiny).log()
    return lambda score: score


def _level(context: Context, scores: pl.LazyFrame, last: Night | str, rows: int) -> Result:
    if isinstance(last, str):
        return guarding.unjudged(guarding.LEVEL, last, rows)
    then = _scores(last)
    link = link_of(context.spec.likelihood)(pl.col("score"))
    unit = 1.0
    if context.spec.likelihood not in LEVELLED:
        unit = then.select(link.std()).collect(engine="streaming").item() or 1.0
    least = context.portfolio.thresholds.limits(context.spec.limits).min_vanished_rows
    return guarding.level(_means(then, link / unit), _means(scores, link / unit), least)


def _means(scores: pl.LazyFrame, link: pl.Expr) -> dict[str, tuple[int, float, float]]:
    """Rows, mean and standard deviation by segment, and of all rows under no name."""
    told = pl.len(), link.mean().alias("mean"), link.std().fill_null(0.0).alias("deviation")
    of_each = scores.group_by("segment").agg(told).collect(engine="streaming").iter_rows()
    return {"": scores.select(told).collect(engine="streaming").row(0)} | {
        name: tuple(about) for name, *about in of_each
    }
