"""The remedy for a segment that drifts: its support is re-weighted toward recent rows, as fast as newer rows ask for.

The half-life is learned on the newest rows of the segments in question, which no fit has seen and which do not adapt
the models that are compared there; where none beats plain support, none is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
import torch

from metarisk.adapt.adapting import Adapted, adapt
from metarisk.adapt.models import FittedModel
from metarisk.domain import Array, Portfolio, RiskSpec, SegmentKey, segment_name
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.metrics import paired_bootstrap
from metarisk.tasks import LABEL, segment_keys, teaching, tells

HALF_LIVES = (24.0, 12.0, 6.0)
"""Months after which a row counts half; what is tried, beside no decay."""
LEAST_ROWS, LEAST_EVENTS = 30, 5
"""Newer rows and events below which nothing can be learned."""


@dataclass(frozen=True)
class Proof:
    """Loss with a decay minus loss without on newer rows of one segment, or of all (None), with a 95 % interval."""

    segment: str | None
    difference: float
    low: float
    high: float
    rows: int
    older: int


@dataclass(frozen=True)
class Recency:
    """What was decided for the segments that drift."""

    segments: tuple[SegmentKey, ...] = ()
    half_life: float | None = None
    """Months; None: their support counts in full."""
    proofs: tuple[Proof, ...] = ()
    reason: str = ""

    def weights(self, frame: pl.DataFrame, portfolio: Portfolio) -> Array | None:
        """Weight of each support row (N,): 0.5^(age / half-life) in these segments, else 1; None where all are 1."""
        if self.half_life is None:
            return None
        keys, codes = segment_keys(frame, portfolio)
        ours = np.isin(codes, [number for number, key in enumerate(keys) if key in self.segments])
        opened = pl.col(portfolio.columns.opened_on).cast(pl.Date)
        months = frame.select((opened.max() - opened).dt.total_days() / 30.4375).to_series().to_numpy()
        return np.where(ours, 0.5 ** (months / self.half_life), 1.0)

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Recency:
        """What `to_bytes` wrote."""
        parts = json.loads(content)
        proofs = tuple(Proof(**line) for line in parts["proofs"])
        return cls(tuple(tuple(key) for key in parts["segments"]), parts["half_life"], proofs, parts["reason"])


def learn_recency(
    model: FittedModel, known: pl.DataFrame, drifting: Sequence[SegmentKey], portfolio: Portfolio, spec: RiskSpec
) -> Recency:
    """The half-life that serves the newest rows of the drifting segments best, with the evidence.

    Args:
        known: rows at risk as known now (LABEL holds y). Those that opened in the last fold's months of the drifting
            segments are judged; all that opened before adapt.
    """
    segments = tuple(sorted(drifting))
    if model.recipe.learner == "none" or not all(base.parts for base in model.bases):
        return Recency(segments, reason=f"{model.recipe_name} adapts to no segment")
    known = teaching(known, hazard=model.recipe.hazard)
    opened = pl.col(portfolio.columns.opened_on)
    keys, codes = segment_keys(known, portfolio)
    ours = pl.Series(np.isin(codes, [number for number, key in enumerate(keys) if key in segments]))
    mine = known.filter(ours)
    if mine.is_empty():
        return Recency(segments, reason="no row of theirs is known")
    cut = mine.select(opened.max().dt.offset_by(f"-{portfolio.validation.fold_months}mo")).item()
    judged, older = mine.filter(opened > cut), known.filter(opened <= cut)
    events = float(tells(judged[LABEL].to_numpy(), spec).sum())
    if judged.height < LEAST_ROWS or events < LEAST_EVENTS or older.is_empty():
        return Recency(
            segments, reason=f"{judged.height} newer rows with {events:.0f} events are too few to learn from"
        )
    y = judged[LABEL].to_numpy(writable=True)

    def losses(half_life: float | None) -> Array:
        found: Adapted = adapt(model, "", older, portfolio, spec, recency=Recency(segments, half_life))
        link = found.score(judged, portfolio, model.unseen(judged))[0]
        return LIKELIHOODS[model.likelihood].loss(torch.from_numpy(link), torch.from_numpy(y)).numpy()

    plain = losses(None)
    tried = {half_life: losses(half_life) for half_life in HALF_LIVES}
    best = min(tried, key=lambda half_life: float(tried[half_life].mean()))
    difference = tried[best] - plain
    helps = bool(difference.mean() < 0.0)
    return Recency(
        segments,
        best if helps else None,
        tuple(_proofs(judged, difference, older, portfolio)),
        "" if helps else f"the best decay, a half-life of {best:g} months, loses on their newer rows",
    )


def _proofs(judged: pl.DataFrame, difference: Array, older: pl.DataFrame, portfolio: Portfolio) -> list[Proof]:
    keys, codes = segment_keys(judged, portfolio)
    before = dict(zip(*_counted(older, portfolio), strict=True))
    proofs = [_proof(None, difference, sum(before.get(key, 0) for key in keys))]
    return proofs + [
        _proof(segment_name(key), difference[codes == number], before.get(key, 0)) for number, key in enumerate(keys)
    ]


def _proof(segment: str | None, difference: Array, older: int) -> Proof:
    span = paired_bootstrap(difference, np.arange(len(difference)))
    return Proof(segment, span.mean, span.low, span.high, len(difference), older)


def _counted(frame: pl.DataFrame, portfolio: Portfolio) -> tuple[list[SegmentKey], list[int]]:
    keys, codes = segment_keys(frame, portfolio)
    return list(keys), np.bincount(codes, minlength=len(keys)).tolist()
