"""Fraud: the event is a fraud that somebody confirms; the score is its probability on the day it is looked at.

Each night the riskiest cases become alerts, within what people can review, and a few others are drawn at random. What
earlier nights would have caught is told from the labels known by now.
"""

from datetime import timedelta

from metarisk.domain import Demo, RiskSpec
from metarisk.risks.fraud.book import generate
from metarisk.risks.fraud.derived import NIGHTS, derive

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
        "map_network",
        "maml",
        "matching",
        "siamese",
    ),
    default="map_head",
    promotion="interval",
    score_unit="probability of fraud",
    derive=derive,
    cards="metarisk.risks.fraud.cards",
    look_back=timedelta(days=NIGHTS),
    options={"budget": 50, "explore_share": 0.02, "case": ""},
    demos={"card_fraud": Demo(generate)},
)
