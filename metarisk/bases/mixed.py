"""Boosted trees with random effects by GPBoost. The extra `gpboost` fits it; scoring needs LightGBM alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import polars as pl

from metarisk.bases.fitted import LIMIT, Labelled, values_of
from metarisk.bases.trees import TreeBase, tree_parameters
from metarisk.domain import Array, ModelError

INSTALLED = find_spec("gpboost") is not None
"""Whether the extra is there; without it nothing offers this base."""
RATE = 0.05
"""Larger steps than those of plain trees, and fewer: at each one the random effects are fitted again.

A step follows the gradient and not Newton's direction, so it is divided by the mean curvature: where events are rare
the trees would hardly move.
"""
_UNKNOWN = frozenset({"num_iterations", "bagging_fraction", "bagging_freq", "deterministic", "force_row_wise"})
"""LightGBM's parameters that a fit with random effects does not take: it needs all rows of a group at once."""


@dataclass(frozen=True)
class MixedBase:
    """Trees plus a normal random effect of every value of each segment column (Sigrist 2022, JMLR 23, 1-46)."""

    trees: TreeBase
    effects: Mapping[str, Mapping[str, float]]
    """By segment column and value; a value that never taught has none."""

    @classmethod
    def fit(cls, labelled: Labelled) -> MixedBase:
        """Fit on mature rows, y (N,) of zeros and ones; an exposure is not taken. One class only: a constant."""
        if not INSTALLED:
            raise ModelError("the base gpboost needs GPBoost", remedy="pip install 'metarisk[gpboost]'")
        import gpboost
        import lightgbm

        if labelled.alike or labelled.exposure is not None or labelled.likelihood != "bernoulli":
            return cls(TreeBase.fit(labelled), {})
        frame, y, encoder = labelled.frame, labelled.y, labelled.encoder()
        raw = encoder.raw(frame)
        values = {name: values_of(frame, name) for name in labelled.columns.segments}
        levels = {name: values[name].unique().sort() for name in values}
        groups = np.column_stack([levels[name].search_sorted(values[name]).to_numpy() for name in values]).astype(int)
        parameters = tree_parameters(y, encoder.monotone, fine=False)
        rounds = round(parameters["num_iterations"] * parameters["learning_rate"] / RATE)
        curvature = float(y.mean() * (1 - y.mean()))
        with warnings.catch_warnings():
            # It warns whenever it is told which columns are categories.
            warnings.simplefilter("ignore", UserWarning)
            booster = gpboost.train(
                {key: value for key, value in parameters.items() if key not in _UNKNOWN}
                | {"learning_rate": RATE / curvature},
                gpboost.Dataset(raw, y, categorical_feature=encoder.categorical),
                num_boost_round=rounds,
                gp_model=gpboost.GPModel(group_data=groups, likelihood="bernoulli_logit", num_parallel_threads=1),
            )
        effects = {}
        for place, name in enumerate(values):
            # A group that never taught has no effect, so the others' columns add nothing.
            asked = np.full((len(levels[name]), len(values)), -1)
            asked[:, place] = np.arange(len(asked))
            found = booster.predict(raw[:1].repeat(len(asked), 0), group_data_pred=asked, pred_latent=True)
            effects[name] = dict(zip(levels[name].to_list(), found["random_effect_mean"].tolist(), strict=True))
        # LightGBM reads the trees, and warns of parameters that it does not know.
        text, _, _ = json.loads(booster.model_to_string())["booster_str"].partition("\nparameters:")
        return cls(TreeBase(encoder, lightgbm.Booster(model_str=text)), effects)

    def predict(self, frame: pl.DataFrame) -> Array:
        """Logit, float64 (N,)."""
        score: Array = self.trees.predict(frame) + sum(self._effects(frame).values(), np.zeros(frame.height))
        return score.clip(-LIMIT, LIMIT)

    def features(self) -> tuple[str, ...]:
        """Names of the features, then the segment columns."""
        return (*self.trees.features(), *(name for name in self.effects if name not in self.trees.features()))

    def contributions(self, frame: pl.DataFrame) -> Array:
        """Those of the trees, and of each segment column its effect, float64 (N, features + 1)."""
        names, trees = self.features(), self.trees.contributions(frame)
        found = np.zeros((frame.height, len(names) + 1))
        found[:, : trees.shape[1] - 1], found[:, -1] = trees[:, :-1], trees[:, -1]
        for name, effect in self._effects(frame).items():
            found[:, names.index(name)] += effect
        return found

    def to_text(self) -> str:
        """JSON."""
        return json.dumps({"trees": self.trees.to_text(), "effects": self.effects})

    @classmethod
    def from_text(cls, text: str) -> MixedBase:
        """The base that `to_text` wrote."""
        parts = json.loads(text)
        return cls(TreeBase.from_text(parts["trees"]), parts["effects"])

    def _effects(self, frame: pl.DataFrame) -> dict[str, Array]:
        """The effect (N,) of each segment column's value."""
        return {
            name: values_of(frame, name).replace_strict(dict(table), default=0.0, return_dtype=pl.Float64).to_numpy()
            for name, table in self.effects.items()
        }
