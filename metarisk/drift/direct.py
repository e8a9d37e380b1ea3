"""Performance without labels where the target is a value: a small model of the loss, fitted out of fold.

Of a regression nothing says how wrong a score is but the features under which scores were wrong before (direct loss
estimation). Like `performance` it sees a harder book and not a changed world.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy import stats

from metarisk.domain import Array, Feature, Portfolio
from metarisk.drift.decide import MIN_ROWS, Z95, blind, judged, rows_of
from metarisk.drift.hierarchy import labels_of, of_both
from metarisk.drift.histograms import segment_column
from metarisk.drift.measure import Measure, Night, Scored, Week, parquet
from metarisk.features import Encoder

if TYPE_CHECKING:
    import lightgbm

LOSS_MODEL, LOSSES = "reference.loss.json", "reference.loss.parquet"
METRIC = "expected_loss"
WATCH, ALERT = 0.10, 0.25
"""Least rises of the estimated loss as a share."""
FOLDS = 5
_PARAMETERS = {
    "objective": "regression", "num_leaves": 16, "learning_rate": 0.05, "min_data_in_leaf": 50, "lambda_l2": 5.0,
    "seed": 0, "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
}  # fmt: skip
_ROUNDS = 150


@dataclass(frozen=True)
class LossModel:
    """The expected loss of a row given its features and its score; `noise` is the spread of losses around it."""

    encoder: Encoder
    booster: lightgbm.Booster
    noise: float

    @classmethod
    def fit(
        cls, frame: pl.DataFrame, score: Array, loss: Array, features: Mapping[str, Feature], opened_on: str
    ) -> LossModel:
        """Learn losses (N,) of scores (N,) by fits that have not seen the rows of `frame` (N rows)."""
        import lightgbm

        encoder = Encoder.fit(frame, features, opened_on)
        x = _inputs(encoder, frame, score)
        fold = np.arange(len(loss)) % FOLDS
        unseen = np.empty(len(loss))
        for number in range(FOLDS):
            away = fold == number
            booster = lightgbm.train(_PARAMETERS, _dataset(encoder, x[~away], loss[~away]), _ROUNDS)
            unseen[away] = np.asarray(booster.predict(x[away]))
        noise = float(np.sqrt(np.mean((loss - unseen) ** 2)))
        return cls(encoder, lightgbm.train(_PARAMETERS, _dataset(encoder, x, loss), _ROUNDS), noise)

    def predict(self, frame: pl.DataFrame, score: Array) -> Array:
        """Expected loss (N,) of rows with scores (N,); never below zero."""
        return np.asarray(np.maximum(self.booster.predict(_inputs(self.encoder, frame, score)), 0.0))

    def to_bytes(self) -> bytes:
        """JSON that holds LightGBM's own text form."""
        about = {"encoder": self.encoder.to_json(), "booster": self.booster.model_to_string(), "noise": self.noise}
        return json.dumps(about).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> LossModel:
        """What `to_bytes` wrote."""
        import lightgbm

        parts = json.loads(content)
        return cls(Encoder.from_json(parts["encoder"]), lightgbm.Booster(model_str=parts["booster"]), parts["noise"])


def summed(batches: Iterable[tuple[pl.DataFrame, Array]], segments: Sequence[str]) -> pl.DataFrame:
    """Rows, sum and sum of squares of expected losses (N,) by segment, in the order of the rows.

    Of each row its loss and the codes of its segment are held, so that a sum does not depend on the batches.
    """
    keys = [segment_column(name).cast(pl.Categorical).alias(name) for name in segments]
    parts = [frame.select(keys).with_columns(loss=pl.Series(loss)) for frame, loss in batches]
    keyed = pl.concat(parts, rechunk=True)
    sums = keyed.group_by(*segments, maintain_order=True).agg(
        rows=pl.len().cast(pl.Int64), sum=pl.col("loss").sum(), squares=(pl.col("loss") ** 2).sum()
    )
    return sums.with_columns(pl.col(segments).cast(pl.String)).sort(*segments)


def compare(
    segments: Sequence[str], reference: pl.DataFrame | None, current: pl.DataFrame, noise: float
) -> pl.DataFrame:
    """Rows of `drift_metric`: tonight's estimated loss of every node against that at training.

    `reference` and `current` are sums as by `summed`; `low` and `high` bound the realised mean loss (95 %).
    """
    if reference is None:
        return blind("the model came without a model of its loss", metric=METRIC)
    of, (n_ref, s_ref, v_ref, n_cur, s_cur, v_cur) = of_both(reference, current, segments)
    with np.errstate(divide="ignore", invalid="ignore"):
        before, now = s_ref / n_ref, s_cur / n_cur
        error = np.sqrt(
            np.maximum(v_ref / n_ref - before**2, 0) / n_ref + np.maximum(v_cur / n_cur - now**2, 0) / n_cur
        )
        effect, p = now / before - 1.0, stats.norm.sf((now - before) / error)
        spread = np.sqrt(noise**2 / n_cur + np.maximum(v_cur / n_cur - now**2, 0) / n_cur)
    enough = (np.minimum(n_ref, n_cur) >= MIN_ROWS) & np.isfinite(p)
    p, q, status, threshold = judged(p, effect, enough, (WATCH, ALERT))
    return rows_of(
        labels_of(of) | {"status": status, "n_ref": n_ref.astype(np.int64), "n_cur": n_cur.astype(np.int64)},
        None, METRIC, value=now, effect=effect, p=p, q=q, threshold=threshold,
        low=np.maximum(now - Z95 * spread, 0.0), high=now + Z95 * spread,
        detail=[
            f"{before[g]:.4g} at training" if enough[g] else f"too few rows: {n_cur[g]:,.0f}, {n_ref[g]:,.0f} before"
            for g in range(len(of))
        ],
    )  # fmt: skip


def _inputs(encoder: Encoder, frame: pl.DataFrame, score: Array) -> Array:
    return np.column_stack([encoder.raw(frame), score])


def _dataset(encoder: Encoder, x: Array, loss: Array) -> lightgbm.Dataset:
    import lightgbm

    return lightgbm.Dataset(x, loss, categorical_feature=encoder.categorical)


def _expected(model: LossModel, portfolio: Portfolio, scored: Scored) -> pl.DataFrame:
    target = portfolio.target.name
    losses = ((rows, model.predict(rows, rows[target].to_numpy())) for rows in scored.batches())
    return summed(losses, portfolio.columns.segments)


def _keep(week: Week) -> Mapping[str, bytes]:
    portfolio, unseen = week.portfolio, week.unseen()
    if unseen is None:
        return {}
    model = LossModel.fit(week.teach, *unseen, portfolio.features, portfolio.columns.opened_on)
    return {LOSSES: parquet(_expected(model, portfolio, week.scored)), LOSS_MODEL: model.to_bytes()}


def _judge(night: Night) -> pl.DataFrame:
    known, segments = night.beside.table(LOSSES), night.portfolio.columns.segments
    if known is None or LOSS_MODEL not in night.beside.files:
        return compare(segments, None, pl.DataFrame(), 0.0)
    model = LossModel.from_bytes(night.beside.files[LOSS_MODEL])
    return compare(segments, known, _expected(model, night.portfolio, night.scored), model.noise)


MEASURE = Measure("direct", _judge, _keep, frozenset({"value"}), tests=(METRIC,), opening=(METRIC,))
