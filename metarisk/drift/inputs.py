"""The measure of inputs and scores one by one: histograms of a night against those stored beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from metarisk.domain import Feature, Portfolio
from metarisk.drift import decide, histograms
from metarisk.drift.decide import blind
from metarisk.drift.measure import Beside, Measure, Night, Week, parquet

HISTOGRAMS = "reference.parquet"
COUNTED = "histograms.parquet"
"""A night's own histograms, on the bins of its model's reference."""


def reference(
    frame: pl.LazyFrame,
    features: Mapping[str, Feature],
    segments: Sequence[str],
    *,
    opened_on: str | None = None,
    score: str | None = None,
) -> pl.DataFrame:
    """Histograms of a population, portfolio-wide and by segment, as a table that alone suffices to judge a night.

    Args:
        frame: the rows that the model is right for, one a scored entity.
        features: the model's inputs; one that cannot be counted is left out, and `watch` says so.
        segments: segment columns, at least one, parents first.
        opened_on: date column that ages are counted from; needed for `date-age` features.
        score: column that holds the score, watched like a numeric feature.
    """
    watched = dict(features) | ({score: Feature("numeric")} if score else {})
    bins, _ = histograms.define(frame, watched, opened_on)
    counts = histograms.count(frame, segments, histograms.segment_keys(frame, segments), bins)
    return histograms.to_frame(counts, segments)


def watch(
    frame: pl.LazyFrame, reference: pl.DataFrame | None, *, features: Sequence[str] = ()
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of `drift_metric`, and the night's own histograms on the reference's bins; no columns where there are none.

    Args:
        frame: the scored population with the reference's columns.
        reference: what `reference` gave for the model that scored; None says `blind` once.
        features: names that should be watched; one that the reference lacks is `blind`.

    A column that is gone or cannot be counted, an empty or constant feature, segments that are new or too small: each
    has its row with a status and the reason.
    """
    if reference is None:
        reason = "the model has no reference that can be read: drift is seen again after the next weekly run"
        return blind(reason), pl.DataFrame()
    segments, known = histograms.from_frame(reference)
    gone = [name for name in segments if name not in frame.collect_schema()]
    if gone:
        return blind(f"the segment column {gone[0]} is gone"), pl.DataFrame()
    counts = histograms.count(frame, segments, known.keys, known.bins)
    missing = [name for name in features if name not in known.bins]
    unknown = [blind("not in the model's reference: watched from its next training on", feature=f) for f in missing]
    found = pl.concat([decide.compare(segments, known, counts), *unknown])
    return found, histograms.to_frame(counts, segments)


def known(beside: Beside) -> pl.DataFrame | None:
    """The reference beside a model, where it has one that this version reads."""
    return beside.table(HISTOGRAMS, histograms.is_reference)


def _watched(portfolio: Portfolio) -> dict[str, Feature]:
    """Features that are watched: not those that all rows of a date share, of which a night is one observation."""
    return {name: feature for name, feature in portfolio.features.items() if not feature.common}


def _keep(week: Week) -> Mapping[str, bytes]:
    portfolio, columns = week.portfolio, week.portfolio.columns
    watched, target = _watched(portfolio), portfolio.target.name
    table = reference(week.scored.frame, watched, columns.segments, opened_on=columns.opened_on, score=target)
    return {HISTOGRAMS: parquet(table)}


def _judge(night: Night) -> pl.DataFrame:
    features = [*_watched(night.portfolio), night.portfolio.target.name]
    found, counted = watch(night.scored.frame, known(night.beside), features=features)
    if counted.width:
        night.files[COUNTED] = counted
    return found


MEASURE = Measure("inputs", _judge, _keep, tests=("psi", "volume"), opening=("psi",))
