"""Market risk: the value is the variance of the days to come; what is published of it are volatility, VaR and ES.

Residuals are returns in units of the volatility that was expected of each day: by the night that published it or, where
there was none, by a stand-in, one linear fit of all assets on days before those that are tested. So no day is judged by
a model that had seen it. The pooled tail of the last 250 days makes tonight's VaR and ES of each asset, joint same-date
vectors make those of each book, and both are walked through the days before for the back-tests.

Example: Basel's zones of 4, 5 and 10 exceedances of a 99 % VaR in 250 days.

>>> from metarisk.markets.backtests import traffic_light
>>> traffic_light([4, 5, 10], [250, 250, 250]).tolist()
['green', 'yellow', 'red']
"""

from metarisk.domain import Demo, Limits, RiskSpec
from metarisk.markets.prices import generate
from metarisk.risks.market.derived import derive

SPEC = RiskSpec(
    name="market",
    likelihood="qlike",
    label="value",
    candidates=("ewma", "har", "har_own", "har_lightgbm", "episodic", "episodic_head"),
    default="episodic",
    promotion="interval",
    score_unit="expected daily variance",
    # the labels of a crash move the level of every asset
    limits=Limits(max_score_move=1.0, min_vanished_rows=5),
    derive=derive,
    cards="metarisk.risks.market.cards",
    options={"volatility": "vol_1d", "garch": True},
    demos={"market_vol": Demo(generate), "market_vol_5d": Demo(generate)},
)
