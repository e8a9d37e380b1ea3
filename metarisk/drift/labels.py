"""Label drift where labels are known: the event rate of rows that matured since the model was trained, by segment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy import stats

from metarisk.drift import distances
from metarisk.drift.decide import MIN_ROWS, blind, judged, rows_of
from metarisk.drift.hierarchy import labels_of, of_both
from metarisk.drift.histograms import segment_column
from metarisk.drift.measure import Measure, Night, Week, parquet
from metarisk.tasks import LABEL, labelled, matured, teaching

LABELS = "reference.labels.parquet"
METRIC = "label_rate"
WATCH, ALERT = math.log(1.25), math.log(1.5)
"""Least changes of the event rate, either way, on the log scale."""


def count(mature: pl.DataFrame | pl.LazyFrame, segments: Sequence[str]) -> pl.DataFrame:
    """Mature rows and their events by segment: the segment columns, `rows`, `events`."""
    keyed = mature.lazy().select(*(segment_column(name).alias(name) for name in segments), LABEL)
    counted = keyed.group_by(*segments).agg(rows=pl.len(), events=pl.col(LABEL).sum())
    return counted.with_columns(pl.col("rows", "events").cast(pl.Int64)).sort(*segments).collect(engine="streaming")


def compare(segments: Sequence[str], reference: pl.DataFrame | None, current: pl.DataFrame) -> pl.DataFrame:
    """Rows of `drift_metric`: event rates of every node against those that the model learned from.

    Pearson's test of two rates, each kind of node in one false discovery rate; `effect` is the log of the ratio of the
    rates, with half an event added to each so that none is infinite.
    """
    if reference is None:
        return blind("the model has no reference of its labels: seen again after the next weekly run", metric=METRIC)
    if reference.is_empty() and current.is_empty():
        return blind("no row has matured, in the reference or since", metric=METRIC)
    of, (n_ref, d_ref, n_cur, d_cur) = of_both(reference, current, segments)
    before, now = np.stack([n_ref - d_ref, d_ref], axis=1), np.stack([n_cur - d_cur, d_cur], axis=1)
    _, p = distances.homogeneity(before, now)
    expected = (d_ref + d_cur) * np.minimum(n_ref, n_cur) / np.maximum(n_ref + n_cur, 1)
    enough = (np.minimum(n_ref, n_cur) >= MIN_ROWS) & (expected >= distances.LEAST_EXPECTED)
    effect = np.log((d_cur + 0.5) / (n_cur + 1.0)) - np.log((d_ref + 0.5) / (n_ref + 1.0))
    p, q, status, threshold = judged(p, np.abs(effect), enough, (WATCH, ALERT))
    rate = np.divide(d_cur, n_cur, out=np.full(len(n_cur), np.nan), where=n_cur > 0)
    return rows_of(
        labels_of(of) | {"status": status, "n_ref": n_ref, "n_cur": n_cur},
        None, METRIC, value=rate, effect=np.where(n_cur > 0, effect, np.nan), p=p, q=q,
        threshold=threshold,
        low=np.where(n_cur > 0, stats.beta.ppf(0.025, d_cur + 0.5, n_cur - d_cur + 0.5), np.nan),
        high=np.where(n_cur > 0, stats.beta.ppf(0.975, d_cur + 0.5, n_cur - d_cur + 0.5), np.nan),
        detail=[
            f"{d_cur[g]:,} events of {n_cur[g]:,} rows matured since, {d_ref[g]:,} of {n_ref[g]:,} before"
            for g in range(len(of))
        ],
    )  # fmt: skip


def _keep(week: Week) -> Mapping[str, bytes]:
    return {LABELS: parquet(count(teaching(week.teach, hazard=False), week.portfolio.columns.segments))}


def _judge(night: Night) -> pl.DataFrame:
    """Labels of rows that matured after the model's label cut-off, against those that taught it."""
    portfolio, segments = night.portfolio, night.portfolio.columns.segments
    new = night.extract.filter(~matured(portfolio, portfolio.target, night.cut_off))
    since = count(labelled(new, portfolio, night.spec, night.as_of), segments)
    return compare(segments, night.beside.table(LABELS), since)


MEASURE = Measure("labels", _judge, _keep, frozenset({"event"}), tests=(METRIC,), opening=(METRIC,))
