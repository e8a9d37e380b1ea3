"""What competes in a week, as plain tables: LEARNERS, and RECIPES of bases with a learner on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarisk.bases import INSTALLED
from metarisk.domain import (
    Adaptation,
    Array,
    Arrays,
    Episodes,
    Learner,
    LikelihoodName,
    ModelError,
    Packed,
    Progress,
)
from metarisk.learners.gradient.maml import Anil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from metarisk.learners.gradient.reptile import Reptile
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.heads.ridge_head import RidgeHead
from metarisk.learners.loop import Loop
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.metric.siamese import Siamese


@dataclass(frozen=True)
class Pooled:
    """The learner that does not adapt: the base score as it is. Every baseline is this on some base.

    Example:
        >>> import numpy as np
        >>> x, y, weight, base = np.zeros((2, 1)), np.zeros(2), np.ones(2), np.array([-1.0, 2.0])
        >>> rows = Packed((("north",),), np.array([0, 2]), x, y, weight, base)
        >>> Pooled().predict({}, Pooled().adapt({}, rows, "bernoulli"), rows, "bernoulli")
        (array([-1.,  2.]), None)
    """

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Nothing to learn."""
        return {}

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """Nothing to adapt."""
        return Adaptation(support.keys, {})

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """The base score; no variance."""
        return rows.base, None


@dataclass(frozen=True)
class LearnerKind:
    """One row of LEARNERS."""

    make: Callable[..., Learner]
    joint: bool = False
    """Whether the adaptation of one segment depends on the supports of the others."""
    reads_inputs: bool = True
    """Whether it reads the input matrix, and not the base score alone."""


LEARNERS: Mapping[str, LearnerKind] = {
    "none": LearnerKind(Pooled, reads_inputs=False),
    "map_head": LearnerKind(MapHead, joint=True, reads_inputs=False),
    "map_network": LearnerKind(MapNetwork),
    "ridge_head": LearnerKind(RidgeHead),
    "maml": LearnerKind(Maml),
    "fomaml": LearnerKind(Fomaml),
    "anil": LearnerKind(Anil),
    "meta_sgd": LearnerKind(MetaSgd),
    "maml_plus_plus": LearnerKind(MamlPlusPlus),
    "reptile": LearnerKind(Reptile),
    "prototypical": LearnerKind(Prototypical),
    "matching": LearnerKind(Matching),
    "siamese": LearnerKind(Siamese),
}


@dataclass(frozen=True)
class Recipe:
    """How one candidate is made: its bases, averaged on the link scale, and the learner on top of them."""

    bases: tuple[str, ...]
    learner: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    likelihood: LikelihoodName | None = None
    """What its scores mean, where that is not the risk type's own likelihood."""
    baseline: bool = False
    """Whether it is what a risk team would use instead."""
    tuned: bool = False
    """Whether the weights of two bases are chosen on a forward split of the rows that teach; else they are equal."""

    @property
    def hazard(self) -> bool:
        """Whether rows at risk teach it, and not mature ones alone."""
        return self.likelihood == "cumulative_hazard"

    @property
    def kind(self) -> LearnerKind:
        """The learner's row of LEARNERS."""
        return LEARNERS[self.learner]

    def make(self, checkpoint: Path | None = None) -> Learner:
        """The configured learner; an unknown option is a ModelError.

        Args:
            checkpoint: file to continue training from and to write, where the learner trains in a loop of steps.
        """
        options = dict(self.options)
        try:
            if "loop" in options:
                where = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
                options["loop"] = Loop(**{**options["loop"], **where})
            return self.kind.make(**options)
        except TypeError as error:
            raise ModelError(
                f"learner {self.learner} refuses its options: {error}", remedy="correct [learner.options]"
            ) from error


BASE = ("lightgbm", "logistic_segments")
TARGET = ("lightgbm_target_hazard", "linear_hazard_segments")
HAZARD = ("lightgbm_hazard", "linear_hazard_segments")
EPISODIC = ("relative", "har_habits")
"""What all of a date share and what sets an entity apart from them, and its own habits: each for every length of
history, averaged, for fits of different kinds make different errors."""
SHORT = {"steps": 300, "meta_batch": 16, "evaluate_every": 50, "patience": 3}
"""Networks that compete each week on a few thousand labelled rows of a book: longer training only overfits there."""
NETWORK = {"hidden": (32,), "loop": SHORT}
FIXED = {"damping": 1.0, "prior_strength": 1e9, "prior_variance": 0.1, "slope_variance": 1e-6}
"""A head that learns nothing about segments: shrunken intercepts with a prior precision of ten events."""
LEVELS = {"slope_variance": 1e-6}
"""A head without a slope: on a base whose score holds an exposure, a slope would bend that as well."""
REPTILE = SHORT | {"optimiser": "sgd", "momentum": 0.0, "rate": 0.1, "schedule": "linear"}
RECIPES: Mapping[str, Recipe] = {
    "pooled_logistic": Recipe(("logistic",), baseline=True),
    "segment_logistic": Recipe(("logistic_segments",), baseline=True),
    "own_logistic": Recipe(("logistic_own",), baseline=True),
    "segment_rates": Recipe(("rates",), baseline=True),
    "pooled_lightgbm": Recipe(("lightgbm",), baseline=True),
    "segment_lightgbm": Recipe(("lightgbm_segments",), baseline=True),
    "target_lightgbm": Recipe(("lightgbm_target",), baseline=True),
    "recalibrated_lightgbm": Recipe(("lightgbm",), "map_head", FIXED, baseline=True),
    "isolation_forest": Recipe(("isolation",), baseline=True),
    "blend": Recipe(BASE, baseline=True),
    "tuned_ensemble": Recipe(("lightgbm_target", "logistic_segments"), baseline=True, tuned=True),
    **({"gpboost": Recipe(("gpboost",), baseline=True)} if INSTALLED else {}),
    "map_head": Recipe(BASE, "map_head"),
    "segment_head": Recipe(("lightgbm_segments",), "map_head", LEVELS),
    "hazard": Recipe(HAZARD, likelihood="cumulative_hazard"),
    "hazard_head": Recipe(HAZARD, "map_head", {"slope_column": 0}, "cumulative_hazard"),
    "target_hazard_head": Recipe(TARGET, "map_head", {"slope_column": 0}, "cumulative_hazard"),
    "last_value": Recipe(("last_value",), baseline=True),
    "ewma": Recipe(("ewma",), baseline=True),
    "har": Recipe(("har",), baseline=True),
    "har_own": Recipe(("har_own",), baseline=True),
    "har_lightgbm": Recipe(("har_lightgbm",), baseline=True),
    "relative": Recipe(("relative",)),
    "episodic": Recipe(EPISODIC),
    "episodic_head": Recipe(EPISODIC, "map_head"),
    "decayed": Recipe(("linear_decayed",)),
    "decayed_head": Recipe(("linear_decayed", "lightgbm"), "map_head"),
    "map_network": Recipe(BASE, "map_network", {"loop": SHORT | {"rate": 1e-2, "graph": False}}),
    "ridge_head": Recipe(BASE, "ridge_head", {"hidden": (32,), "loop": SHORT | {"rate": 3e-3, "graph": False}}),
    "reptile": Recipe(BASE, "reptile", {"hidden": (32,), "loop": REPTILE}),
    **{
        name: Recipe(BASE, name, NETWORK)
        for name in ("maml", "fomaml", "anil", "meta_sgd", "maml_plus_plus", "prototypical", "matching", "siamese")
    },
}
BASELINES = frozenset(name for name, recipe in RECIPES.items() if recipe.baseline)
"""What a risk team would use instead."""
