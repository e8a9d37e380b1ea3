"""How pages show what selling costs, and the days that it takes."""

from metarisk.domain import MeasureKind

_COSTS = dict.fromkeys(("gross", "held", "var_99_1d", "exit_cost_99", "lvar_99_1d", "lvar_99_exit"), ",.0f")
_WORDS = {
    "var_99_1d": "VaR 99, 1 day", "lvar_99_1d": "VaR 99 with spread, 1 day",
    "lvar_99_exit": "VaR 99 with spread, to the exit", "exit_cost_99": "cost of a bad exit",
}  # fmt: skip
KINDS = {
    "liquidity_book": MeasureKind(
        "Liquidity of books",
        "VaR 99 of a day with half the spread of a bad day on every position; in the currency of the positions.",
        formats={"sold_in_a_day": ".0%", "longest_days": ",.1f"} | _COSTS,
        words=_WORDS,
    ),
    "liquidation": MeasureKind(
        "Days to liquidate",
        "At the portfolio's share of each day's trade, longest first; the last column: equal parts, sold day by day.",
        formats={"days": ",.2f"} | _COSTS,
        words=_WORDS,
    ),
    "position": MeasureKind("Positions that are not valued", formats={"held": ",.0f"}),
}
