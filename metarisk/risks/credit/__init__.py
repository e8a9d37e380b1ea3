"""Credit default: the event is a default within the horizon; the score is its probability.

Example: the tables of its demo book.

>>> {name: table.read_all().num_rows for name, table in SPEC.demos["consumer_loans"].generate(0.01, 0).items()}
{'demo_loans': 360, 'demo_outcomes': 193}
"""

from metarisk.domain import Demo, RiskSpec
from metarisk.risks.credit.book import generate

SPEC = RiskSpec(
    name="credit",
    likelihood="bernoulli",
    label="event",
    candidates=(
        "pooled_logistic",
        "segment_logistic",
        "own_logistic",
        "pooled_lightgbm",
        "segment_lightgbm",
        "target_lightgbm",
        "recalibrated_lightgbm",
        "blend",
        "tuned_ensemble",
        "map_head",
        "hazard",
        "hazard_head",
        "maml",
        "reptile",
    ),
    default="hazard_head",
    promotion="manual",
    score_unit="probability of default",
    demos={"consumer_loans": Demo(generate)},
)
