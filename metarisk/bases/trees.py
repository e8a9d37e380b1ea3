"""LightGBM on the features as they are, by the objective of the likelihood; Poisson where rows have an exposure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from metarisk.bases.fitted import COUNTS, LIMIT, LIMITS, Labelled, completed
from metarisk.bases.forest import Forest
from metarisk.domain import Array, LikelihoodName
from metarisk.features import Encoder

if TYPE_CHECKING:
    import lightgbm

MANY_EVENTS = 2_000
"""From here on half the trees at twice the rate lose nothing, and a night of a large book is mostly trees."""
FINE = 3
"""How much smaller the steps of the fit that scores are, where events are few."""


MANY_ROWS = 20_000
"""From here on making tables of the trees costs less than it saves; which of the two scores a row changes no bit."""
OBJECTIVES: Mapping[LikelihoodName, str] = {
    "bernoulli": "binary",
    "gaussian": "regression",
    "qlike": "gamma",
    "poisson": "poisson",
    "negative_binomial": "poisson",
}
"""LightGBM's objective of each likelihood; the loss of gamma under a log link is QLIKE's."""
_THREADS: ContextVar[int] = ContextVar("threads of trees", default=0)


@contextmanager
def tree_threads(count: int) -> Iterator[None]:
    """Threads that a prediction by trees may use; 0, as without it: all of the machine's. They change no bit."""
    before = _THREADS.set(count)
    try:
        yield
    finally:
        _THREADS.reset(before)


@dataclass(frozen=True)
class TreeBase:
    """LightGBM with shallow trees: few labels carry few leaves."""

    encoder: Encoder
    booster: lightgbm.Booster | None
    constant: float = 0.0
    """The score without trees; with them, what they start from beyond their own."""
    likelihood: LikelihoodName = "bernoulli"

    @classmethod
    def fit(cls, labelled: Labelled) -> TreeBase:
        """Fit on labelled rows. Labels all alike: the constant that they ask for."""
        import lightgbm

        y, exposure, likelihood, encoder = labelled.y, labelled.exposure, labelled.likelihood, labelled.encoder()
        if labelled.alike:
            return cls(encoder, None, labelled.constant, likelihood)
        parameters = tree_parameters(y, encoder.monotone, likelihood=likelihood, fine=labelled.fine)
        offset, start = None, 0.0
        if exposure is not None:
            parameters |= {"objective": "poisson", "boost_from_average": False}
            # Trees that would have to find the unit of the exposure first would never arrive.
            start = labelled.constant if likelihood in COUNTS else 0.0
            offset = np.log(exposure) + start
        data = lightgbm.Dataset(
            encoder.raw(labelled.frame), y, init_score=offset, categorical_feature=encoder.categorical
        )
        booster = lightgbm.train(parameters, data)
        booster.free_dataset()
        return cls(encoder, booster, start, likelihood)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Score on the link scale, float64 (N,)."""
        if self.booster is None:
            return np.full(frame.height, self.constant)
        raw = self.encoder.raw(frame)
        threads = _THREADS.get()
        if len(raw) >= MANY_ROWS and self._forest is not None:
            score = self._forest.predict(raw, threads or os.cpu_count() or 1)
        else:
            score = np.asarray(self.booster.predict(raw, raw_score=True, num_threads=threads))
        limit = LIMITS.get(self.likelihood, LIMIT)
        clipped: Array = (score + self.constant).clip(-limit, limit)
        return clipped

    @cached_property
    def _forest(self) -> Forest | None:
        return None if self.booster is None else Forest.read(self.booster.dump_model())

    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.encoder.kinds)

    def contributions(self, frame: pl.DataFrame) -> Array:
        """TreeSHAP by LightGBM itself (Lundberg et al. 2020), float64 (N, features + 1)."""
        if self.booster is None or not frame.height:
            return completed(np.zeros((frame.height, len(self.encoder.kinds))), self.predict(frame))
        raw = self.encoder.raw(frame)
        found = np.asarray(self.booster.predict(raw, pred_contrib=True, num_threads=_THREADS.get()))
        return completed(found[:, :-1], self.predict(frame))

    def to_text(self) -> str:
        """JSON that holds LightGBM's own text form."""
        model = self.booster.model_to_string() if self.booster is not None else None
        about = {"encoder": self.encoder.to_json(), "booster": model, "constant": self.constant}
        return json.dumps(about | {"likelihood": self.likelihood})

    @classmethod
    def from_text(cls, text: str) -> TreeBase:
        """The base that `to_text` wrote."""
        import lightgbm

        parts = json.loads(text)
        booster = lightgbm.Booster(model_str=parts["booster"]) if parts["booster"] is not None else None
        likelihood = parts.get("likelihood", "bernoulli")
        return cls(Encoder.from_json(parts["encoder"]), booster, parts["constant"], likelihood)


def tree_parameters(
    y: Array, monotone: Sequence[int], *, likelihood: LikelihoodName = "bernoulli", fine: bool
) -> dict[str, Any]:
    """LightGBM's parameters for labels (N,): how much can be learned say the rarer class, the counts, or the rows.

    A value, most of which is noise in every risk, counts as a quarter of an event.
    """
    events = min(y.sum(), len(y) - y.sum()) if likelihood == "bernoulli" else len(y) / 4
    if likelihood in COUNTS:
        events = min(y.sum(), len(y))
    many = events >= MANY_EVENTS
    smaller = FINE if fine and not many else 1
    constraints = {"monotone_constraints": list(monotone)} if any(monotone) else {}
    return constraints | {
        "objective": OBJECTIVES[likelihood],
        "num_iterations": smaller * (200 if many else int(np.clip(events, 100, 400))),
        "learning_rate": (0.06 if many else 0.03) / smaller,
        "num_leaves": int(np.clip(events / 100, 4, 16)),
        "min_data_in_leaf": int(np.clip(len(y) / 100, 5, 100)),
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "seed": 0,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
