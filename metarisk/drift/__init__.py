"""Drift of a night against the histograms stored beside the model, by segment, with controlled error rates.

`reference` is taken once a model, `detect` runs every night and never rereads training rows. Pure: frames come in,
frames go out; where they are stored is the pipeline's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from metarisk.domain import Feature
from metarisk.drift import decide, histograms
from metarisk.drift.decide import SCHEMA, blind, compare
from metarisk.drift.histograms import Bins, Counts, segment_column

__all__ = [
    "REMEDY",
    "SCHEMA", "TESTS", "bins_of", "blind", "compare", "current", "detect", "readable", "reference", "segment_column",
    "watch",
]  # fmt: skip

TESTS = (
    "psi", "volume", "domain_auc", "label_rate", "expected_log_loss", "expected_auc", "expected_loss", "early_events",
    "early_auc", "matured_auc", "concept",
)  # fmt: skip
"""Metrics that decide; the others describe what these found, and repeat a status."""
REMEDY = "remedy"
"""Metric of what was done for a segment, with the evidence whether it helped."""


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
        features: the model's inputs; one that cannot be counted is left out, and `detect` says so.
        segments: segment columns, at least one, parents first.
        opened_on: date column that ages are counted from; needed for `date-age` features.
        score: column that holds the score, watched like a numeric feature.
    """
    watched = dict(features) | ({score: Feature("numeric")} if score else {})
    bins, _ = histograms.define(frame, watched, opened_on)
    counts = histograms.count(frame, segments, histograms.segment_keys(frame, segments), bins)
    return histograms.to_frame(counts, segments)


def current(frame: pl.LazyFrame, reference: pl.DataFrame) -> Counts:
    """Count a night's rows on the reference's bins, in one streaming pass of flat memory."""
    segments, known = histograms.from_frame(reference)
    return histograms.count(frame, segments, known.keys, known.bins)


def detect(
    frame: pl.LazyFrame, reference: pl.DataFrame | None, *, features: Sequence[str] = (), seed: int = 0
) -> pl.DataFrame:
    """Judge a night: rows of `drift_metric` (columns of `SCHEMA`); the whole portfolio's have no segment.

    Args:
        frame: the scored population with the reference's columns.
        reference: what `reference` gave for the model that scored; None says `blind` once.
        features: names that should be watched; one that the reference lacks is `blind`.
        seed: of the Monte Carlo draws that refine small p-values.

    A column that is gone or cannot be counted, an empty or constant feature, segments that are new or too small: each
    has its row with a status and the reason.
    """
    return watch(frame, reference, features=features, seed=seed)[0]


def watch(
    frame: pl.LazyFrame, reference: pl.DataFrame | None, *, features: Sequence[str] = (), seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What `detect` gives, and the night's own histograms on the reference's bins; no columns where there are none."""
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
    found = pl.concat([decide.compare(segments, known, counts, seed=seed), *unknown])
    return found, histograms.to_frame(counts, segments)


def bins_of(reference: pl.DataFrame) -> Mapping[str, Bins]:
    """How a reference counts its features."""
    return histograms.from_frame(reference)[1].bins


def readable(reference: pl.DataFrame) -> bool:
    """Whether a stored reference is of the form that this version writes."""
    return histograms.is_reference(reference)
