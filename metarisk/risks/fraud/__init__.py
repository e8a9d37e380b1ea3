"""Fraud: the event is a fraud that somebody confirms; the score is its probability on the day it is looked at.

Each night the riskiest cases become alerts, within what people can review, and a few others are drawn at random. What
earlier nights would have caught is told from the labels known by now.

Example: of three cases two can be reviewed; they hold one of two frauds, and a third of the money at risk.

>>> from metarisk.risks.fraud.detection import at_budget
>>> at_budget(["a", "b", "c"], [0.9, 0.8, 0.1], [1, 0, 1], [100.0, 50.0, 200.0], budget=2)
AtBudget(alerts=2, hits=1, events=2, value=300.0, value_caught=100.0)
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
