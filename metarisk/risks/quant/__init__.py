"""Quantitative signals: the value is an asset's rank by the return of the next five days among all of its date.

Each night publishes rank and suggested weight. What a portfolio of such signals would have earned is told by trials:
every recipe of every week, judged on dates that no fit had seen, net of costs, and deflated by how many there were.

Example: the best of a hundred signals that earn nothing, judged by Sharpe ratios of variance 0.01 a period.

>>> from metarisk.risks.quant.proving import expected_best_sharpe
>>> round(expected_best_sharpe(100, 0.01), 3)
0.253
"""

from metarisk.domain import Demo, Limits, RiskSpec
from metarisk.markets.prices import generate
from metarisk.risks.quant.derived import derive, trials

SPEC = RiskSpec(
    name="quant",
    likelihood="gaussian",
    label="value",
    candidates=("pooled_logistic", "pooled_lightgbm", "decayed", "decayed_head"),
    default="pooled_logistic",
    promotion="interval",
    score_unit="expected rank by the next five days' return, in standard deviations",
    # signals are weak: refits on newer weeks agree less than models of risk do
    limits=Limits(max_score_move=2.0, min_score_agreement=0.4, max_score_stretch=2.5, min_vanished_rows=5),
    derive=derive,
    cards="metarisk.risks.quant.cards",
    trials=trials,
    options={
        "cost_bp": 10.0,
        "share": 0.2,
        "max_weight": 0.1,
        "turnover": 4.0,
        "neutral": False,
        "short": True,
    },
    demos={"signals_5d": Demo(generate)},
)
