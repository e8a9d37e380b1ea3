"""Liquidity risk: the value is the log illiquidity (or spread) of the week to come; beside it each night publishes what
selling costs, the days that positions take to sell, and value at risk with that cost.

VaR is filtered historical simulation: residuals are returns in units of the exponentially weighted volatility that was
known the night before, so nothing is fitted. The cost is half the spread of a bad day, of the asset's own half year.

Example: days to sell a million where two are traded a day and a tenth of that may be ours.

>>> from metarisk.risks.liquidity.illiquidity import days_to_liquidate
>>> days_to_liquidate([1e6], [2e6], participation=0.1)
array([5.])
"""

from metarisk.domain import Demo, Limits, RiskSpec
from metarisk.markets.prices import generate
from metarisk.risks.liquidity.derived import derive

SPEC = RiskSpec(
    name="liquidity",
    likelihood="gaussian",
    label="value",
    candidates=("last_value", "ewma", "har", "har_lightgbm", "relative", "episodic"),
    default="relative",
    promotion="interval",
    score_unit="expected log illiquidity",
    # an entity is there every night or not at all
    limits=Limits(min_vanished_rows=5),
    derive=derive,
    cards="metarisk.risks.liquidity.cards",
    options={"value": "amihud_5d", "offset": 1e-5, "participation": 0.1, "spread_scale": 3.0},
    demos={"liquidity_5d": Demo(generate), "liquidity_spread_5d": Demo(generate)},
)
