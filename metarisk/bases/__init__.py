"""Base scores that learners adapt: LightGBM and linear models, with and without segments, cross-fitted.

A base predicts either whether the event falls into the horizon (a logit, from mature rows) or when it happens (a log
hazard, from all rows at risk). It is fitted K+1 times: once on all rows, for rows to be scored, and once without each
fold, for rows that may have been in training. A row's fold is a hash of its entity, so that on every later night a
support row meets the one model that has never seen it, and no training row needs to be kept.
"""

from metarisk.bases.crossfit import BASES, BaseKind, CrossFitted, blend
from metarisk.bases.encoded import EncodedBase, encode, relative_rates
from metarisk.bases.fitted import FOLDS, LIMIT, Fitted, entity_fold, values_of
from metarisk.bases.hazard import HazardBase, breslow
from metarisk.bases.linear import LinearBase, signed
from metarisk.bases.mixed import INSTALLED, MixedBase
from metarisk.bases.own import OwnBase
from metarisk.bases.rates import RateBase
from metarisk.bases.trees import TreeBase, tree_threads

__all__ = [
    "BASES",
    "FOLDS",
    "INSTALLED",
    "LIMIT",
    "BaseKind",
    "CrossFitted",
    "EncodedBase",
    "Fitted",
    "HazardBase",
    "LinearBase",
    "MixedBase",
    "OwnBase",
    "RateBase",
    "TreeBase",
    "blend",
    "breslow",
    "encode",
    "entity_fold",
    "relative_rates",
    "signed",
    "tree_threads",
    "values_of",
]
