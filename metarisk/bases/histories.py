"""One fit for each length of history: what is to be made of a short one is learned from long ones that are cut.

An entity of ten observations is met with features of ten observations, and a model of full windows would read them
wrongly. So each length of `Feature.short` has a fit on all rows that have at least that many, their features cut to it:
episodes like the one that is met (Vinyals et al. 2016, arXiv 1606.04080: test and train conditions must match).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.bases.fitted import Fitted
from metarisk.domain import Array, Feature

FULL = 2
"""Times the longest cut from which a history is not cut any more."""
FEWEST = 100
"""Rows without which no fit of a length is made."""
Shorts = Mapping[int, Mapping[str, str]]
"""For each length, the columns that replace others."""


def shorts_of(features: Mapping[str, Feature]) -> Shorts:
    """Lengths in rising order, and of each the column that each feature is read from."""
    lengths = sorted({length for feature in features.values() for length in feature.short})
    return {
        length: {name: feature.short[length] for name, feature in features.items() if length in feature.short}
        for length in lengths
    }


def cut(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """The rows as they would be of a shorter history: features (keys) read from other columns (values)."""
    return frame.with_columns(pl.col(column).alias(name) for name, column in columns.items())


@dataclass(frozen=True)
class HistoryBase:
    """Fits by length of history; a row is scored by that of the longest cut that its history reaches, cut to it."""

    column: str
    shorts: Shorts
    fits: Mapping[int, Fitted]
    """By length; 0 is the fit of uncut histories."""

    @classmethod
    def fit(
        cls,
        one: Callable[[pl.DataFrame, Array], Fitted],
        frame: pl.DataFrame,
        y: Array,
        features: Mapping[str, Feature],
        column: str | None,
    ) -> HistoryBase:
        """Fit on labelled rows: y (N,); `one` fits rows and labels of one length. No column: histories are not cut."""
        if column is None:
            return cls("", {}, {0: one(frame, y)})
        shorts, seen = shorts_of(features), frame[column].fill_null(0).to_numpy()
        rows = seen >= max(shorts, default=0)
        fits = {0: one(frame.filter(pl.Series(rows)), y[rows])} if rows.sum() >= FEWEST else {0: one(frame, y)}
        for length, columns in shorts.items():
            rows = seen >= length
            if rows.sum() >= FEWEST:
                fits[length] = one(cut(frame.filter(pl.Series(rows)), columns), y[rows])
        return cls(column, shorts, fits)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score on the link scale, float64 (N,)."""
        score = np.zeros(frame.height)
        for fit, rows, part in self._parts(frame):
            score[rows] = fit.predict(part)
        return score

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.fits[0].features()

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the fit that scores a row, float64 (N, features + 1); what their constants differ by in the last."""
        found = np.zeros((frame.height, len(self.features()) + 1))
        for fit, rows, part in self._parts(frame):
            found[rows] = fit.contributions(part)
        return found

    def to_text(self) -> str:
        """JSON."""
        fits = {length: fit.to_text() for length, fit in self.fits.items()}
        return json.dumps({"column": self.column, "shorts": self.shorts, "fits": fits})

    @classmethod
    def from_text(cls, read: Callable[[str], Fitted], text: str) -> HistoryBase:
        """The base that `to_text` wrote; `read` reads the fit of one length."""
        parts = json.loads(text)
        shorts = {int(length): columns for length, columns in parts["shorts"].items()}
        return cls(parts["column"], shorts, {int(length): read(fit) for length, fit in parts["fits"].items()})

    def _parts(self, frame: pl.DataFrame) -> Iterator[tuple[Fitted, Array, pl.DataFrame]]:
        """Each fit, the mask (N,) of the rows that it scores, and these rows, cut."""
        if not self.shorts:
            yield self.fits[0], np.ones(frame.height, dtype=bool), frame
            return
        seen = frame[self.column].fill_null(0).to_numpy()
        lengths = [length for length in self.shorts if length in self.fits]
        place = np.maximum(np.searchsorted(lengths, seen, side="right") - 1, 0)
        full = seen >= FULL * max(lengths, default=0)
        for number, length in [*enumerate(lengths), (-1, 0)]:
            rows = full if number < 0 else ~full & (place == number)
            if rows.any():
                part = frame.filter(pl.Series(rows))
                yield self.fits[length], rows, cut(part, self.shorts.get(length, {}))
