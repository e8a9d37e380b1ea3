"""What every fitted base offers, and what the kinds of bases share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import polars as pl

from metarisk.domain import MISSING, Array, Columns, Feature, LikelihoodName
from metarisk.features import Encoder

FOLDS = 5
LIMIT = 15.0
"""Log-odds and log hazards are cut here: beyond it a probability is zero or one in single precision."""
COUNTS: frozenset[LikelihoodName] = frozenset({"poisson", "negative_binomial"})
LIMITS: Mapping[LikelihoodName, float] = {
    "gaussian": math.inf,
    "qlike": 50.0,
    "poisson": 50.0,
    "negative_binomial": 50.0,
}
"""Where the scores of other likelihoods are cut: a logarithm where it would overflow, a plain value nowhere."""


@dataclass(frozen=True)
class Labelled:
    """Labelled rows, and how they are to be read: what a base is fitted on.

    Attributes:
        frame: N rows.
        y: (N,), in the likelihood's range.
        exposure: (N,), what rows are at risk for, where that differs; labels are then counts by a Poisson with its
            logarithm as offset, whatever the likelihood.
        fine: whether the fit scores: trees then take smaller steps, which averages out the luck of their draws.
    """

    frame: pl.DataFrame
    y: Array
    features: Mapping[str, Feature]
    columns: Columns
    exposure: Array | None = None
    likelihood: LikelihoodName = "bernoulli"
    fine: bool = False

    def only(self, rows: Array) -> Labelled:
        """Some of the rows, by a mask (N,)."""
        exposure = None if self.exposure is None else self.exposure[rows]
        return replace(self, frame=self.frame.filter(pl.Series(rows)), y=self.y[rows], exposure=exposure)

    def encoder(self) -> Encoder:
        """The encoder of the features, fitted on the rows."""
        return Encoder.fit(self.frame, self.features, self.columns.opened_on)

    @property
    def alike(self) -> bool:
        """Whether all labels are one: nothing but a constant can be learned of them."""
        return len(np.unique(self.y)) < 2

    @property
    def constant(self) -> float:
        """The score of labels that are all alike, or that nothing explains; half an event is added, so it is finite.

        A logit, the log of a rate, of a variance or, for the likelihood gaussian, the mean.
        """
        exposure = None if self.exposure is None else float(self.exposure.sum())
        return constant_of(float(self.y.sum()), len(self.y), self.likelihood, exposure)


class Fitted(Protocol):
    """A fitted base: link-scale scores of a frame, and its text form."""

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, or log of the hazard over the whole horizon, float64 (N,)."""
        ...

    def features(self) -> tuple[str, ...]:
        """Names of the features, in the order of `contributions`."""
        ...

    def contributions(self, frame: pl.DataFrame) -> Array:
        """What each feature adds to the score, and last what every row has, float64 (N, features + 1).

        A row sums to its `predict`.
        """
        ...

    def to_text(self) -> str:
        """Everything fitted, as text that `from_text` of the same kind reads."""
        ...


def entity_fold(frame: pl.DataFrame, entity: str) -> Array:
    """Fold of each row, int64 (N,) in 0..FOLDS-1, from its entity alone: stable across nights and versions."""
    return (_crc32(frame[entity].cast(pl.String).fill_null("None")) % FOLDS).astype(np.int64)


def _crc32(texts: pl.Series) -> Array:
    """CRC-32 of each text (N,) as `zlib.crc32` has it, uint32: one byte of all texts at a time."""
    packed = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, places, content = packed.buffers()
    starts = np.frombuffer(places, dtype=np.int64)[packed.offset : packed.offset + len(packed) + 1]
    data = np.frombuffer(content or b"", dtype=np.uint8)
    lengths, crc = np.diff(starts), np.full(len(texts), 0xFFFFFFFF, dtype=np.uint32)
    for byte in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > byte)
        state = crc[longer]
        crc[longer] = _CRC_TABLE[(state ^ data[starts[longer] + byte]) & 0xFF] ^ (state >> 8)
    return ~crc


def _crc_table() -> Array:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0xEDB88320) ^ (table >> 1), table >> 1)
    return table


_CRC_TABLE = _crc_table()


def values_of(frame: pl.DataFrame, segment: str) -> pl.Series:
    """The values (N,) of a segment column as text, null being one of them."""
    return frame[segment].cast(pl.String).fill_null(MISSING)


def completed(parts: Array, score: Array) -> Array:
    """Contributions (N, F) with what is left of the score (N,) as a last column: the constant, and what was cut off."""
    return np.column_stack([parts, score - parts.sum(axis=1)])


def constant_of(total: float, rows: int, likelihood: LikelihoodName, exposure: float | None = None) -> float:
    """`Labelled.constant` of labels by their sum, their number and what they were at risk for in all."""
    if likelihood in ("gaussian", "qlike"):
        mean = total / rows if rows else 0.0
        return mean if likelihood == "gaussian" else math.log(max(mean, 1e-300)) if rows else 0.0
    if likelihood in COUNTS:
        at_risk = rows if exposure is None else exposure
        # Half a row's events of mean exposure: the unit of the exposure must not count.
        return math.log((total + 0.5) / (at_risk + 0.5 * at_risk / rows))
    return math.log((total + 0.5) / ((rows - total if exposure is None else exposure) + 0.5))
