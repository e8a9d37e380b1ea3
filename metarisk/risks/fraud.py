"""Fraud: the event is a fraud that somebody confirms; the score is its probability on the day it is looked at."""

from metarisk.domain import RiskSpec

SPEC = RiskSpec(
    name="fraud",
    likelihood="bernoulli",
    label="event",
    candidates=(
        "pooled_logistic",
        "pooled_lightgbm",
        "segment_lightgbm",
        "target_lightgbm",
        "isolation_forest",
        "map_head",
        "maml",
        "matching",
        "siamese",
    ),
    default="map_head",
    promotion="interval",
    score_unit="probability of fraud",
)
