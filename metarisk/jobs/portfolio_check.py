"""`metarisk portfolio check`: the steps of a week up to its judgement, tried in a scratch folder; nothing is kept.

What it calls WRONG is what weeks and nights refuse, because it is they that refuse it: the extract, the check of its
rows, the labels and the features are theirs.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl

from metarisk import evidence, lake, quality, scoring, training
from metarisk.domain import MetariskError, Portfolio, RiskSpec
from metarisk.job.context import Context
from metarisk.job.run import Checked, scan
from metarisk.learners.heads.cost import expected_cost
from metarisk.portfolios import Finding, also_sql, check_portfolio, failed
from metarisk.portfolios import scores_suite_path as scores_suite
from metarisk.steps import check, extract, judge
from metarisk.tasks import forward_folds, labelled, population, tells_of

MANY_SEGMENTS = 2_000
"""Segments above which a week's time is no longer that of its rows."""


def try_portfolio(context: Context) -> list[Finding]:
    """Everything that can be found before a model is trained; every part is looked at that the parts before allow."""
    portfolio, project = context.portfolio, context.settings.project
    found = check_portfolio(portfolio, project, context.warehouse, context.job.as_of, check_schema=lake.check_schema)
    found += _sides(context)
    found += _scores_suite(context)
    if any(not one.ok and one.about in ("extract", "rows") for one in found):
        return found
    with tempfile.TemporaryDirectory(prefix="metarisk-check-") as folder:
        found += _rows(context, Path(folder))
    return found


def _rows(context: Context, folder: Path) -> Iterator[Finding]:
    """What the rows say, in the order of a week; a step that refuses them ends it."""
    try:
        extracted = extract.extract_into(context, folder / "lake")
        judged = check.judge_extract(context, extracted, folder / "quarantine", None)
    except MetariskError as error:
        yield failed("rows", error)
        return
    for warning in extracted.warnings:
        yield Finding(True, "rows", warning, told=True)
    yield from _quality(judged)
    yield from _source(context, extracted.rows)
    # Where a rule stops the book, what is left of its rows tells nothing of its label.
    stops = any(result.severity == "critical" for result in judged.failures)
    checked = Checked(extracted, replace(judged, excluded=None) if stops else judged)
    frame = scan(context, checked)
    yield from _label(frame, context.portfolio, context.spec, context.job.as_of)
    yield from _segments(frame, context.portfolio)
    yield from _features(context, checked)


def _quality(found: quality.Quality) -> Iterator[Finding]:
    stops = [result for result in found.failures if result.severity == "critical"]
    for result in found.failures:
        remedy = result.remedy or "correct the source, or the rule if it is wrong"
        what = f"{result.place}{result.rule}: {result.detail or 'failed'}"
        if result in stops:
            yield Finding(False, "quality", what, remedy)
        else:
            yield Finding(True, "quality", what, remedy if result.severity == "warning" else "", told=True)
    if not stops:
        aside = f"; {found.excluded_rows:,} of {found.total_rows:,} rows are set aside" if found.excluded_rows else ""
        yield Finding(True, "quality", f"no critical rule of {found.suite}, nor one of any book, is broken{aside}")


def _source(context: Context, rows: int) -> Iterator[Finding]:
    try:
        check.require_rows(context, rows)
        told = judge.require_known(context)
    except MetariskError as error:
        yield failed("source", error)
        return
    if told:
        yield Finding(True, "source", told, "they are taught as good", told=True)
    else:
        yield Finding(True, "source", "no join drops rows, and every event of its tables is known from some day on")


def _label(frame: pl.LazyFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> Iterator[Finding]:
    """What the label gives: mature rows and events by year of opening and by fold, and who is scored tonight."""
    opened = pl.col(portfolio.columns.opened_on)
    mature = labelled(frame, portfolio, spec, as_of).group_by(opened.alias("day"))
    days = mature.agg(pl.len().alias("rows"), tells_of(spec).sum().alias("events")).collect(engine="streaming")
    counts = pl.col("rows").sum(), pl.col("events").sum()
    years = days.group_by(pl.col("day").dt.year().alias("year")).agg(counts).sort("year")
    rows, events = int(years["rows"].sum()), int(years["events"].sum() or 0)
    unit = "events inside the horizon" if spec.label == "event" else "known values"
    rate = f", a base rate of {events / rows:.2%}" if rows and spec.label == "event" else ""
    yield Finding(True, "label", f"{portfolio.target.name}: {rows:,} matured rows with {events:,} {unit}{rate}")
    if rows:
        each = "; ".join(f"{row['year']} {row['rows']:,} rows, {row['events']:,.0f}" for row in years.to_dicts())
        yield Finding(True, "label", f"by year of opening: {each}")
    folds = forward_folds(portfolio, as_of)
    day = pl.col("day")
    told = [days.filter(day > fold.cut, day <= fold.end).select(counts).row(0) for fold in folds]
    each = "; ".join(
        f"{fold.cut} to {fold.end} {n:,} rows, {k or 0:,.0f}" for fold, (n, k) in zip(folds, told, strict=True)
    )
    yield Finding(True, "label", f"by fold: {each}")
    judged = int(sum(k or 0 for _, k in told))
    least = evidence.MIN_JUDGED_EVENTS
    if spec.label == "event" and judged < least:
        yield Finding(
            True,
            "label",
            f"unproven: {judged} events in {len(folds)} folds, and fewer than {least} tell no candidates apart",
            "give it a longer history, a longer horizon, or longer folds (`validation.fold_months`)",
            told=True,
        )
    tonight = population(frame, portfolio, as_of).select(pl.len()).collect(engine="streaming").item()
    nobody = "" if tonight else "check the horizon, the exit dates, and whether the book still opens rows"
    yield Finding(True, "scored", f"{tonight:,} rows would be scored as of {as_of}", nobody, told=not tonight)


def _segments(frame: pl.LazyFrame, portfolio: Portfolio) -> Iterator[Finding]:
    """How many segments there are, and what very many of them cost."""
    names = list(portfolio.columns.segments)
    if not names:
        return
    counts = frame.select(pl.struct(names).n_unique().alias(""), *(pl.col(name).n_unique() for name in names))
    cells, *each = counts.collect(engine="streaming").row(0)
    what = f"{cells:,} segments: " + ", ".join(f"{name} has {n:,} values" for name, n in zip(names, each, strict=True))
    if max(cells, *each) < MANY_SEGMENTS:
        yield Finding(True, "segments", what)
        return
    widest = names[each.index(max(each))]
    rows = frame.select(pl.len()).collect(engine="streaming").item()
    seconds, megabytes = expected_cost(min(rows, portfolio.thresholds.max_training_rows), cells, each)
    yield Finding(
        True,
        "segments",
        f"{what}; a fit of the hierarchical head will take about {max(seconds, 1):,.0f} s on one thread and "
        f"{max(megabytes, 1):,.0f} MiB, and a week has one a fold, a candidate and the champion (docs/scaling.md)",
        f"make {widest} coarser, as in a region for a branch, unless each value has events of its own",
        told=True,
    )


def _features(context: Context, checked: Checked) -> Iterator[Finding]:
    """Whether labels teach at all, and features that tell the outcome."""
    portfolio, spec, as_of = context.portfolio, context.spec, context.job.as_of
    teach = training.teaching_rows(scan(context, checked), portfolio, spec, as_of)
    try:
        training.require_labels(teach, portfolio, spec, as_of)
    except MetariskError as error:
        yield failed("label", error)
        return
    older, newer = training.forward_split(teach, portfolio)
    named = evidence.suspects(teach, older, newer, portfolio, spec)
    for one in named:
        yield Finding(not one.stops, "features", one.what, "" if one.vouched else one.remedy, told=not one.stops)
    few = evidence.unjudged(older, newer, portfolio) if spec.label == "event" else ""
    if few:
        yield Finding(True, "features", few, "give it a longer history", told=True)
    elif not named:
        yield Finding(True, "features", f"none of {len(portfolio.features)} tells the outcome")


def _sides(context: Context) -> Iterator[Finding]:
    for name, sql in also_sql(context.settings.project, context.portfolio).items():
        try:
            with context.warehouse.stream(sql, {"as_of": context.job.as_of}) as reader:
                rows = sum(batch.num_rows for batch in reader)
        except MetariskError as error:
            yield failed(f"source.also.{name}", error)
        else:
            yield Finding(True, f"source.also.{name}", f"runs, {rows:,} rows")


def _scores_suite(context: Context) -> Iterator[Finding]:
    """Whether the suite of the score table can be judged, on two rows that look like scores."""
    portfolio, as_of = context.portfolio, context.job.as_of
    texts = {name: ["a", "b"] for name, kind in scoring.KEPT.items() if kind == pl.String}
    numbers = {name: [0.5, 0.5] for name, kind in scoring.KEPT.items() if kind == pl.Float64}
    scores = pl.DataFrame({**texts, **numbers, "as_of": [as_of] * 2, "extrapolated": [False] * 2})
    with tempfile.TemporaryDirectory(prefix="metarisk-check-") as folder:
        file = Path(folder) / "scores.parquet"
        scores.select(pl.col(name).cast(kind) for name, kind in scoring.KEPT.items()).write_parquet(file)
        try:
            quality.check(
                scores_suite(context.settings.project, portfolio),
                [file],
                portfolio=portfolio,
                as_of=as_of,
                quarantine=Path(folder) / "quarantine",
                parameters=quality.score_parameters(context.spec.likelihood, scores.height),
            )
        except MetariskError as error:
            yield failed("source.scores_suite", error)
        else:
            yield Finding(True, "source.scores_suite", f"{portfolio.source.scores_suite} can be judged")
