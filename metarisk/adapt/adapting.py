"""The inner loop over many segments: what a night adapts, with the reason for each segment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load as read_arrays

from metarisk.adapt.models import FittedModel, safetensors_of
from metarisk.calibration import Calibration, LevelRule, calibrate
from metarisk.domain import (
    Adaptation,
    Array,
    LikelihoodName,
    Packed,
    Portfolio,
    RiskSpec,
    SegmentKey,
    SegmentStatus,
    Thresholds,
    segment_name,
)
from metarisk.learners.likelihoods import LIKELIHOODS, Elementwise
from metarisk.learners.similarity import borrow, embedding_of
from metarisk.learners.threads import one_thread
from metarisk.tasks import LABEL, concat, pack, segment_keys, teaching, tells

OWN_LEVEL = LevelRule(1, 1.0, 1.0)
"""Prior variances of the shifts that take the level of events from elsewhere out again; of rows of any age."""


@dataclass(frozen=True)
class SegmentAdaptation:
    """What was done for one segment, and why."""

    key: SegmentKey
    status: SegmentStatus
    reason: str
    support_rows: int
    support_events: int
    support_hash: str
    adaptation_id: str


class Weighing(Protocol):
    """Gives support rows a weight."""

    def weights(self, frame: pl.DataFrame, portfolio: Portfolio) -> Array | None:
        """Weight of each row (N,), or None where all are 1."""
        ...


@dataclass(frozen=True)
class Adapted:
    """A model adapted to the supports of one night."""

    model: FittedModel
    adaptation: Adaptation
    segments: Mapping[SegmentKey, SegmentAdaptation]
    level: Calibration = field(default_factory=Calibration)
    """Shift of its scores: where segments were told events of others, back to the level of their own rows."""

    def score(
        self, frame: pl.DataFrame, portfolio: Portfolio, rows: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array | None]:
        """Link-scale score (N,) and its variance or None, of rows in any order.

        `rows` gives their inputs (N, D) and base scores (N,), where these are not those of fresh rows.
        """
        keys, codes = segment_keys(frame, portfolio)
        inputs, base = self.model.fresh(frame) if rows is None else rows
        packed, order = pack(keys, codes, inputs, np.zeros(frame.height), base)
        with one_thread():
            found = self.model.learner.predict(self.model.state, self.adaptation, packed, self.model.likelihood)
        score, variance = found
        level = np.array([self.level.shift(segment_name(key)) for key in keys], dtype=float)[codes]
        return _put_back(score, order) + level, None if variance is None else _put_back(variance, order)

    def carried(self, previous: Mapping[str, str]) -> Adapted:
        """The same with status `carried` where the adaptation id is the one that `previous` holds for the segment."""
        segments = {
            key: replace(segment, status="carried", reason=f"unchanged since the last night: {segment.reason}")
            if segment.status == "adapted" and previous.get(segment_name(key)) == segment.adaptation_id
            else segment
            for key, segment in self.segments.items()
        }
        return replace(self, segments=segments)

    def to_files(self) -> dict[str, bytes]:
        """File contents by name, without the model."""
        about = {
            "keys": [list(key) for key in self.adaptation.keys],
            "ragged": dict(self.adaptation.ragged),
            "segments": [dict(vars(self.segments[key])) for key in sorted(self.segments)],
        }
        if self.level != Calibration():
            about["level"] = asdict(self.level)
        return {
            "adaptation.json": json.dumps(about, indent=1, sort_keys=True).encode(),
            "adaptation.safetensors": safetensors_of(self.adaptation.arrays),
        }

    @classmethod
    def from_files(cls, model: FittedModel, files: Mapping[str, bytes]) -> Adapted:
        """What `to_files` wrote, with its model."""
        about = json.loads(files["adaptation.json"])
        keys = tuple(tuple(key) for key in about["keys"])
        arrays = read_arrays(files["adaptation.safetensors"])
        segments = [SegmentAdaptation(**line | {"key": tuple(line["key"])}) for line in about["segments"]]
        told = {segment.key: segment for segment in segments}
        return cls(model, Adaptation(keys, arrays, about["ragged"]), told, Calibration(**about.get("level", {})))


def adapt(
    model: FittedModel,
    model_id: str,
    support: pl.DataFrame,
    portfolio: Portfolio,
    spec: RiskSpec,
    *,
    population: pl.DataFrame | None = None,
    recency: Weighing | None = None,
) -> Adapted:
    """Adapt to every segment of `support` (labelled rows, LABEL holds y) and say for each what was done and why.

    A segment below the portfolio's minimum of rows or events abstains: it is scored from what its parents and the pool
    know. A joint learner keeps its few rows, for they tell of the parents, and shrinks its own effect away; for any
    other learner they are left out. The order of the rows changes no bit.

    Where `recency` says so, rows count less the older they are.

    Where the model borrows, a segment of `population` (rows to be scored) that has no row in `support` is adapted to
    the rows of the segments whose inputs look most like its own.
    """
    support = teaching(support, hazard=model.recipe.hazard).sort(portfolio.columns.entity, portfolio.columns.opened_on)
    keys, codes = segment_keys(support, portfolio)
    y = support[LABEL].to_numpy(writable=True)
    LIKELIHOODS[model.likelihood].validate(y)
    rows = np.bincount(codes, minlength=len(keys))
    events = np.bincount(codes, weights=tells(y, spec), minlength=len(keys))
    pooled = model.recipe.learner == "none"
    inputs, base = (np.zeros((support.height, 0)), np.zeros(support.height)) if pooled else model.unseen(support)
    weight = recency.weights(support, portfolio) if recency is not None else None
    if model.dispersion != 1.0:
        weight = (np.ones(len(y)) if weight is None else weight) / model.dispersion
    joint = model.recipe.kind.joint
    shared = bool(portfolio.thresholds.share_events) and spec.label == "event" and not (pooled or joint)
    if shared:
        told, to = _shared(codes, support, len(keys), portfolio)
        packed, _ = pack(keys, to, inputs[told], y[told], base[told], None if weight is None else weight[told])
    else:
        packed, _ = pack(keys, codes, inputs, y, base, weight)
    what = _ROWS[model.recipe.hazard]
    too_few = [_too_few(int(n), int(e), what, portfolio.thresholds) for n, e in zip(rows, events, strict=True)]
    taken = np.arange(len(keys)) if joint else np.flatnonzero([lack is None for lack in too_few])
    learned = packed.select(taken)
    lent = _borrowed(model, learned, keys, population, portfolio) if model.borrows else None
    if lent is not None:
        learned = concat([learned, lent])
    with one_thread():
        adaptation = model.learner.adapt(model.state, learned, model.likelihood)
    hashes = _support_hashes(packed)
    together = _short_hash("".join(hashes).encode()) if joint else ""
    segments = {}
    for key, lack, n, e, support_hash in zip(keys, too_few, rows, events, hashes, strict=True):
        identity = _short_hash(f"{model_id}/{segment_name(key)}/{support_hash}/{together}".encode())
        status: SegmentStatus = "adapted" if lack is None else "abstained"
        reason = lack or f"{n} {what}, {int(e)} events"
        if pooled:
            status, reason = "fallback", f"the champion {model.recipe_name} is a pooled model"
        segments[key] = SegmentAdaptation(key, status, reason, int(n), int(e), support_hash, identity)
    for key, support_hash in zip(lent.keys, _support_hashes(lent), strict=True) if lent is not None else ():
        identity = _short_hash(f"{model_id}/{segment_name(key)}/{support_hash}".encode())
        reason = "no matured row of its own: adapted to the segments that look most like it"
        segments[key] = SegmentAdaptation(key, "fallback", reason, 0, 0, support_hash, identity)
    adapted = Adapted(model, adaptation, segments)
    if not shared:
        return adapted
    link, _ = adapted.score(support, portfolio, (inputs, base))
    return replace(adapted, level=shifts_to(link, y, keys, codes, OWN_LEVEL, model.likelihood))


def shifts_to(
    link: Array, y: Array, keys: Sequence[SegmentKey], codes: Array, rule: LevelRule, name: LikelihoodName
) -> Calibration:
    """Shifts that bring link-scale scores (N,) to the level of labels (N,), as `calibration.calibrate` does."""
    likelihood = LIKELIHOODS[name]

    def numpy_of(derivative: Elementwise) -> Callable[[Array, Array], Array]:
        return lambda eta, known: derivative(torch.from_numpy(eta), torch.from_numpy(known)).numpy()

    names = [segment_name(key) for key in keys]
    derivatives = {"gradient": numpy_of(likelihood.gradient), "curvature": numpy_of(likelihood.curvature)}
    return calibrate(link, y, codes, names, rule, **derivatives)


def _shared(codes: Array, support: pl.DataFrame, segments: int, portfolio: Portfolio) -> tuple[Array, Array]:
    """Rows by number, and the segment of each, when the newest events are told to every segment that lacks them."""
    opened, most = portfolio.columns.opened_on, portfolio.thresholds.share_events
    events = support.with_row_index("__row").filter(pl.col(LABEL) > 0).sort(opened, "__row", descending=True)
    newest = np.sort(events["__row"].head(most).to_numpy()).astype(np.int64)
    told, to = np.tile(newest, segments), np.repeat(np.arange(segments), len(newest))
    elsewhere = codes[told] != to
    own = np.arange(len(codes))
    return np.concatenate([own, told[elsewhere]]), np.concatenate([codes, to[elsewhere]])


def _borrowed(
    model: FittedModel,
    support: Packed,
    labelled: Sequence[SegmentKey],
    population: pl.DataFrame | None,
    portfolio: Portfolio,
) -> Packed | None:
    """Rows lent to the segments of the population that have no labelled row; None where nobody needs or has any."""
    if population is None or population.is_empty() or not support.rows:
        return None
    keys, codes = segment_keys(population, portfolio)
    known = set(labelled)
    strangers = [number for number, key in enumerate(keys) if key not in known]
    if not strangers:
        return None
    frame = population.filter(pl.Series(np.isin(codes, strangers)))
    keys, codes = segment_keys(frame, portfolio)
    inputs, base = model.fresh(frame)
    rows, _ = pack(keys, codes, inputs, np.zeros(frame.height), base)
    return borrow(support, rows, embed=embedding_of(model.learner, model.state))


def _support_hashes(support: Packed) -> list[str]:
    """A hash of each segment's support as the learner reads it: inputs, labels, base scores, and weights but of 1."""
    hashes = []
    for begin, end in pairwise(support.starts):
        read = [values[begin:end] for values in (support.x, support.y, support.base)]
        weight = support.weight[begin:end]
        hashes.append(_short_hash(*(part.tobytes() for part in ([*read, weight] if (weight != 1.0).any() else read))))
    return hashes


def _short_hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _put_back(values: Array, order: Array) -> Array:
    """Packed values (N,) in the order that rows had before `pack`."""
    out = np.empty(len(order))
    out[order] = values
    return out


_ROWS = {True: "rows at risk", False: "matured rows"}


def _too_few(rows: int, events: int, what: str, limits: Thresholds) -> str | None:
    for named, count, least in (
        (what, rows, limits.min_support_rows),
        ("events", events, limits.min_support_events),
    ):
        if count < least:
            return f"scored from its parents and the pool: {count} {named}, at least {least} are wanted"
    return None
