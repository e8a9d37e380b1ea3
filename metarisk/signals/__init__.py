"""Signals across assets: how well they rank, what a portfolio of them earns after costs, and how much of that is luck.

Pure numpy and scipy. Shapes: N assets on a date; T dates of equal length whose returns do not overlap.
"""

from metarisk.signals.earning import Path, drawdown, equity, limited, tilt, walk
from metarisk.signals.proving import (
    deflated_sharpe,
    expected_best_sharpe,
    probabilistic_sharpe,
    rank_ic,
    sharpe,
)

__all__ = [
    "Path",
    "deflated_sharpe",
    "drawdown",
    "equity",
    "expected_best_sharpe",
    "limited",
    "probabilistic_sharpe",
    "rank_ic",
    "sharpe",
    "tilt",
    "walk",
]
