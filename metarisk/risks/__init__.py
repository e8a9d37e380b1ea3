"""Risk types: what a target means. RISKS is the plain table; each risk is one independent module with one SPEC."""

from collections.abc import Mapping

from metarisk.domain import RiskSpec
from metarisk.risks import credit, fraud, liquidity, market, operational, quant

RISKS: Mapping[str, RiskSpec] = {
    spec.name: spec
    for spec in (
        credit.SPEC,
        fraud.SPEC,
        liquidity.SPEC,
        market.SPEC,
        operational.SPEC,
        quant.SPEC,
    )
}
DEMOS = {name: demo for spec in RISKS.values() for name, demo in spec.demos.items()}
"""Generated books by portfolio; the first is the demo's own."""
