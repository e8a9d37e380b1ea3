"""The inner loop over many segments: recipes, the fitted model, and what a night adapts."""

from metarisk.adapt.adapting import Adapted, SegmentAdaptation, adapt
from metarisk.adapt.models import FittedModel
from metarisk.adapt.recipes import BASELINES, LEARNERS, RECIPES, LearnerKind, Pooled, Recipe, one_thread

__all__ = [
    "BASELINES",
    "LEARNERS",
    "RECIPES",
    "Adapted",
    "FittedModel",
    "LearnerKind",
    "Pooled",
    "Recipe",
    "SegmentAdaptation",
    "adapt",
    "one_thread",
]
