"""The inner loop over many segments: recipes, the fitted model, and what a night adapts."""

from metarisk.adapt.adapting import Adapted, SegmentAdaptation, adapt
from metarisk.adapt.level import LEVEL_RULES, level, level_column, shifts
from metarisk.adapt.models import FittedModel
from metarisk.adapt.recency import Proof, Recency, learn_recency
from metarisk.adapt.recipes import BASELINES, LEARNERS, RECIPES, LearnerKind, Pooled, Recipe
from metarisk.learners.threads import one_thread

__all__ = [
    "BASELINES",
    "LEARNERS",
    "LEVEL_RULES",
    "RECIPES",
    "Adapted",
    "FittedModel",
    "LearnerKind",
    "Pooled",
    "Proof",
    "Recency",
    "Recipe",
    "SegmentAdaptation",
    "adapt",
    "learn_recency",
    "level",
    "level_column",
    "one_thread",
    "shifts",
]
