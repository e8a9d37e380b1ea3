"""Operational losses: the value is a count of loss events; a year of them gives the economic capital of every cell.

Amounts come from the further extract TABLE: loss_id, the segment columns, occurred_on, known_on, amount, currency.

Example: what 95 % say of a yearly rate after 100 years without an event and after 50 with 3 of them.

>>> from metarisk.risks.operational.frequency import rate_bounds
>>> [bound.round(3).tolist() for bound in rate_bounds([0, 3], [100.0, 50.0])]
[[0.0, 0.012], [0.03, 0.175]]
"""

from metarisk.domain import Demo, Limits, RiskSpec
from metarisk.risks.operational.book import generate
from metarisk.risks.operational.derived import derive

SPEC = RiskSpec(
    name="operational",
    likelihood="poisson",
    label="value",
    candidates=(
        "segment_rates",
        "pooled_logistic",
        "segment_logistic",
        "pooled_lightgbm",
        "segment_lightgbm",
        "target_lightgbm",
        "map_head",
        "segment_head",
    ),
    default="segment_head",
    promotion="manual",
    score_unit="expected loss events",
    # a cell is there every night; mines and plants close by ones
    limits=Limits(min_vanished_rows=10),
    derive=derive,
    cards="metarisk.risks.operational.cards",
    options={"collected_from": 0.0, "currency": "", "correlation": 0.0},
    demos={"operational_losses": Demo(generate)},
)
"""Options: the amount from which losses are collected, their currency (none: the only one), and the correlation of
cells in the Gaussian copula of their years."""
