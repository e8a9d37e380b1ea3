"""Columns to matrices: a fitted, serialisable encoder. Pure; what a feature means stands in the portfolio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from metarisk.domain import Array, Feature

DAYS_A_YEAR = 365.25
CLIP = 4.0
"""Standardised values are cut here, so that one extreme value moves a linear score by a bounded amount."""
MAX_LEVELS = 64
"""Levels of a categorical that get a column of their own; rarer ones are treated as unseen."""


@dataclass(frozen=True)
class Numeric:
    """Location and scale of one numeric (or date-age) feature on the fitting rows; a skewed one is taken as log."""

    centre: float
    scale: float
    log: bool
    missing: bool
    """Whether a missing indicator is worth a column."""


@dataclass(frozen=True)
class Encoder:
    """Turns a frame into two matrices: `raw` for trees and `design` for linear models and networks."""

    kinds: Mapping[str, str]
    opened_on: str
    numeric: Mapping[str, Numeric]
    levels: Mapping[str, tuple[str, ...]]
    monotone: tuple[int, ...] = field(default=())
    means: tuple[float, ...] = field(default=())
    """Mean of each column of `design` over the fitting rows: what a linear score is explained against."""

    @classmethod
    def fit(cls, frame: pl.DataFrame, features: Mapping[str, Feature], opened_on: str) -> Encoder:
        """Learn centres, scales and levels from a frame of training rows (in any order)."""
        kinds = {name: feature.kind for name, feature in features.items()}
        numeric: dict[str, Numeric] = {}
        levels: dict[str, tuple[str, ...]] = {}
        for name, kind in kinds.items():
            if kind == "categorical":
                counts = _text(frame, name).drop_nulls().alias("level").value_counts(name="rows")
                ranked = counts.sort(["rows", "level"], descending=[True, False])
                levels[name] = tuple(ranked["level"].head(MAX_LEVELS).to_list())
            else:
                numeric[name] = _fit_numeric(_values(frame, name, kind, opened_on))
        fitted = cls(kinds, opened_on, numeric, levels, tuple(feature.monotone for feature in features.values()))
        return replace(fitted, means=tuple(fitted._column_means(frame)))

    @property
    def categorical(self) -> list[int]:
        """Positions of categorical columns in `raw`."""
        return [i for i, kind in enumerate(self.kinds.values()) if kind == "categorical"]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `design`."""
        names: list[str] = []
        for name, kind in self.kinds.items():
            if kind == "categorical":
                names += [f"{name}={level}" for level in self.levels[name]]
            else:
                names += [name] + ([f"{name} missing"] if self.numeric[name].missing else [])
        return names

    @property
    def signs(self) -> Array:
        """Direction of each column of `design` that a monotone linear score must keep: 1, -1, or 0 where it is free."""
        names, widths = list(self.kinds), self._widths
        signs = np.zeros(sum(widths))
        at = np.cumsum([0, *widths[:-1]]) if widths else np.zeros(0, dtype=np.int64)
        for number, direction in enumerate(self.monotone):
            if self.kinds[names[number]] != "categorical":
                signs[at[number]] = direction
        return signs

    def raw(self, frame: pl.DataFrame) -> Array:
        """Float64 (N, features), by column: numbers, NaN for missing; categories as codes (unseen and missing: NaN)."""
        out = np.empty((frame.height, len(self.kinds)), order="F")
        for i, (name, kind) in enumerate(self.kinds.items()):
            if kind == "categorical":
                out[:, i] = np.append(np.arange(len(self.levels[name]), dtype=float), np.nan)[self._codes(frame, name)]
            else:
                out[:, i] = _values(frame, name, kind, self.opened_on)
        return out

    def design(self, frame: pl.DataFrame, dtype: type[np.floating] = np.float32) -> Array:
        """Matrix (N, len(columns)): standardised and clipped numbers, missing indicators, one column a level."""
        out = np.zeros((frame.height, len(self.columns)), dtype=dtype)
        at = 0
        for name, kind in self.kinds.items():
            if kind == "categorical":
                codes = self._codes(frame, name)
                seen = np.flatnonzero(codes >= 0)
                out[seen, at + codes[seen]] = 1.0
                at += len(self.levels[name])
                continue
            values, absent = self._standardised(frame, name)
            out[:, at] = values
            at += 1
            if self.numeric[name].missing:
                out[:, at] = absent
                at += 1
        return out

    def linear(self, frame: pl.DataFrame, weights: Array) -> Array:
        """Float64 (N,): `design(frame) @ weights` without the matrix.

        A row's sum depends on that row alone, to the last bit; BLAS rounds it by its place among the others.
        """
        out = np.zeros(frame.height)
        for share in self._shares(frame, weights):
            out += share
        return out

    def shares(self, frame: pl.DataFrame, weights: Array) -> Array:
        """What each feature adds to `linear` beyond its mean on the fitting rows, float64 (N, features).

        Columns of one feature (levels, missing indicator) are summed: sum_j w_j (x_j - mean_j), the Shapley value of a
        linear score with independent features (Lundberg and Lee 2017).
        """
        centred = np.asarray(self.means) * weights
        owners = np.repeat(np.arange(len(self.kinds)), self._widths)
        means = np.bincount(owners, centred, minlength=len(self.kinds))
        columns = [share - mean for share, mean in zip(self._shares(frame, weights), means, strict=True)]
        return np.column_stack(columns) if columns else np.zeros((frame.height, 0))

    def to_json(self) -> str:
        """Everything fitted, as text."""
        return json.dumps(asdict(self), sort_keys=False)

    @classmethod
    def from_json(cls, text: str) -> Encoder:
        """The encoder that `to_json` wrote."""
        parts = json.loads(text)
        return cls(
            parts["kinds"],
            parts["opened_on"],
            {name: Numeric(**how) for name, how in parts["numeric"].items()},
            {name: tuple(levels) for name, levels in parts["levels"].items()},
            tuple(parts["monotone"]),
            tuple(parts["means"]),
        )

    @property
    def _widths(self) -> list[int]:
        """Columns of `design` that each feature has."""
        return [
            len(self.levels[name]) if kind == "categorical" else 1 + self.numeric[name].missing
            for name, kind in self.kinds.items()
        ]

    def _shares(self, frame: pl.DataFrame, weights: Array) -> Iterator[Array]:
        """What each feature adds to `linear`, float64 (N,), one after the other."""
        at = 0
        for (name, kind), width in zip(self.kinds.items(), self._widths, strict=True):
            own = weights[at : at + width]
            if kind == "categorical":
                yield np.append(own, 0.0)[self._codes(frame, name)]
            else:
                values, absent = self._standardised(frame, name)
                yield values * own[0] + absent * own[1] if width > 1 else values * own[0]
            at += width

    def _column_means(self, frame: pl.DataFrame) -> Iterator[float]:
        """Mean of each column of `design`, from exact counts and sorted values: the order of rows changes no bit."""
        rows = max(frame.height, 1)
        for name, kind in self.kinds.items():
            if kind == "categorical":
                codes = self._codes(frame, name)
                yield from np.bincount(codes[codes >= 0], minlength=len(self.levels[name])) / rows
                continue
            values, absent = self._standardised(frame, name)
            yield float(np.sort(values).sum()) / rows
            if self.numeric[name].missing:
                yield float(absent.sum()) / rows

    def _codes(self, frame: pl.DataFrame, name: str) -> Array:
        """Int64 (N,): the number of each row's level, -1 for missing and unseen."""
        level = _text(frame, name).cast(pl.Enum(self.levels[name]), strict=False)
        return level.to_physical().cast(pl.Int64).fill_null(-1).to_numpy()

    def _standardised(self, frame: pl.DataFrame, name: str) -> tuple[Array, Array]:
        """Standardised and clipped values, float64 (N,), zero where missing; and the mask of missing ones."""
        how = self.numeric[name]
        values = _values(frame, name, self.kinds[name], self.opened_on)
        absent = np.isnan(values)
        scaled = ((_log(values) if how.log else values) - how.centre) / how.scale
        return np.where(absent, 0.0, np.clip(scaled, -CLIP, CLIP)), absent


@dataclass(frozen=True)
class KnownRange:
    """What labelled rows show of each feature: the range of its numbers, its categories, and whether it is missing.

    A row outside of it in any feature is extrapolated: nothing was ever seen of what becomes of its like.
    """

    kinds: Mapping[str, str]
    opened_on: str
    numbers: Mapping[str, tuple[float, float]]
    """Smallest and largest; above each other where no labelled row has a number."""
    levels: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    """Features that some labelled row lacks."""

    @classmethod
    def fit(cls, frame: pl.DataFrame, features: Mapping[str, Feature], opened_on: str) -> KnownRange:
        """The range of a frame of labelled rows (in any order)."""
        kinds = {name: feature.kind for name, feature in features.items()}
        numbers: dict[str, tuple[float, float]] = {}
        levels: dict[str, tuple[str, ...]] = {}
        missing = []
        for name, kind in kinds.items():
            if kind == "categorical":
                found = _text(frame, name)
                levels[name], lacks = tuple(found.drop_nulls().unique().sort()), found.has_nulls()
            else:
                values = _values(frame, name, kind, opened_on)
                known, lacks = values[~np.isnan(values)], bool(np.isnan(values).any())
                numbers[name] = (float(known.min()), float(known.max())) if len(known) else (0.0, -1.0)
            missing += [name] * lacks
        return cls(kinds, opened_on, numbers, levels, tuple(missing))

    def outside(self, frame: pl.DataFrame) -> Array:
        """Whether each row (N,) lies outside in some feature."""
        out = np.zeros(frame.height, dtype=bool)
        for name, kind in self.kinds.items():
            if kind == "categorical":
                text = _text(frame, name)
                absent = text.is_null().to_numpy()
                strange = ~text.is_in(list(self.levels[name])).fill_null(False).to_numpy()
            else:
                values, (low, high) = _values(frame, name, kind, self.opened_on), self.numbers[name]
                absent, strange = np.isnan(values), ~((values >= low) & (values <= high))
            out |= absent if name not in self.missing else np.zeros_like(out)
            out |= strange & ~absent
        return out

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> KnownRange:
        """The range whose fields were written as JSON."""
        return cls(
            parts["kinds"],
            parts["opened_on"],
            {name: (low, high) for name, (low, high) in parts["numbers"].items()},
            {name: tuple(levels) for name, levels in parts["levels"].items()},
            tuple(parts["missing"]),
        )


def _text(frame: pl.DataFrame, name: str) -> pl.Series:
    return frame[name].cast(pl.String)


def _values(frame: pl.DataFrame, name: str, kind: str, opened_on: str) -> Array:
    """Float64 (N,) with NaN for null and non-finite."""
    if kind == "date-age":
        column = (frame[opened_on].cast(pl.Date) - frame[name].cast(pl.Date)).dt.total_days() / DAYS_A_YEAR
    else:
        column = frame[name].cast(pl.Float64)
    values = np.array(column.fill_null(float("nan")).to_numpy(), dtype=float)
    values[~np.isfinite(values)] = np.nan
    return values


def _fit_numeric(values: Array) -> Numeric:
    # Sorted, so that the order of the rows reaches no bit of the mean.
    known = np.sort(values[~np.isnan(values)])
    missing = bool(len(known) < len(values))
    if not len(known):
        return Numeric(0.0, 1.0, log=False, missing=False)
    low, middle, high = np.quantile(known, [0.01, 0.5, 0.99])
    # An upper tail five times as long as the lower one reads better on the log scale (incomes, balances).
    log = bool(known[0] >= 0 and high - middle > 5 * (middle - low) and high > 10)
    seen = _log(known) if log else known
    low, high = np.quantile(seen, [0.001, 0.999])
    seen = np.clip(seen, low, high)
    scale = float(seen.std())
    # The deviation of a constant is what rounding left of zero.
    constant = scale <= 1e-12 * max(1.0, float(np.abs(seen).max()))
    return Numeric(float(seen.mean()), 1.0 if constant else scale, log, missing)


def _log(values: Array) -> Array:
    return np.asarray(np.log1p(np.maximum(values, 0.0)))
