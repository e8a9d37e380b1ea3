"""Nouns, protocols and errors that every layer shares.

No I/O and no mathematics lives here, and nothing heavier than numpy is imported, so that learners run on a GPU node
that has torch and numpy alone.
"""

from metarisk.domain.database import Scalar, Transaction, Warehouse
from metarisk.domain.episodes import (
    Adaptation,
    Array,
    Arrays,
    Episodes,
    Learner,
    Packed,
    Progress,
    SegmentKey,
    segment_name,
)
from metarisk.domain.errors import (
    ConfigError,
    DataError,
    LockedError,
    MetariskError,
    ModelError,
    QualityError,
    SourceLate,
    WarehouseError,
)
from metarisk.domain.names import PERIODS, did_you_mean, quoted
from metarisk.domain.nights import Derived, NightView
from metarisk.domain.portfolio import (
    Calendar,
    Columns,
    Feature,
    FeatureKind,
    Grade,
    LearnerChoice,
    LikelihoodName,
    Portfolio,
    Promotion,
    Reasons,
    RiskSpec,
    Scorecard,
    Source,
    Target,
    Thresholds,
    Validation,
)
from metarisk.domain.runs import Finding, Job, Mode, Model, Reporter, SegmentStatus

__all__ = [
    "PERIODS",
    "Adaptation",
    "Array",
    "Arrays",
    "Calendar",
    "Columns",
    "ConfigError",
    "DataError",
    "Derived",
    "Episodes",
    "Feature",
    "FeatureKind",
    "Finding",
    "Grade",
    "Job",
    "Learner",
    "LearnerChoice",
    "LikelihoodName",
    "LockedError",
    "MetariskError",
    "Mode",
    "Model",
    "ModelError",
    "NightView",
    "Packed",
    "Portfolio",
    "Progress",
    "Promotion",
    "QualityError",
    "Reasons",
    "Reporter",
    "RiskSpec",
    "Scalar",
    "Scorecard",
    "SegmentKey",
    "SegmentStatus",
    "Source",
    "SourceLate",
    "Target",
    "Thresholds",
    "Transaction",
    "Validation",
    "Warehouse",
    "WarehouseError",
    "did_you_mean",
    "quoted",
    "segment_name",
]
