"""A night judged by its histograms alone, as tests and benchmarks want it: rows without the night's own histograms."""

from __future__ import annotations

from typing import Any

import polars as pl

from metarisk.drift import histograms, inputs
from metarisk.drift.histograms import Counts


def detect(frame: pl.LazyFrame, reference: pl.DataFrame | None, **options: Any) -> pl.DataFrame:
    """Rows of `drift_metric`, see `inputs.watch`."""
    return inputs.watch(frame, reference, **options)[0]


def current(frame: pl.LazyFrame, reference: pl.DataFrame) -> Counts:
    """A night's rows counted on the reference's bins."""
    segments, known = histograms.from_frame(reference)
    return histograms.count(frame, segments, known.keys, known.bins)
