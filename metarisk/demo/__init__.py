"""Generated data of the demo portfolios: the same seed and scale give the same rows anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from metarisk.demo import operational, prices
from metarisk.demo.book import DEMO_AS_OF, DEMO_LOANS, generate
from metarisk.demo.cards import DEMO_CARDS, generate_cards

__all__ = ["DEMOS", "DEMO_AS_OF", "DEMO_CARDS", "DEMO_LOANS", "Demo", "generate", "generate_cards"]


@dataclass(frozen=True)
class Demo:
    """The generated data of one demo portfolio.

    Attributes:
        as_of: the night that the demo runs.
        generate: (scale, seed) to readers of its tables by their name in schema `source`.
    """

    as_of: date
    generate: Callable[[float, int], Mapping[str, pa.RecordBatchReader]]


DEMOS: Mapping[str, Demo] = {
    "consumer_loans": Demo(DEMO_AS_OF, generate),
    "operational_losses": Demo(DEMO_AS_OF, operational.generate),
    "card_fraud": Demo(DEMO_AS_OF, generate_cards),
    "market_vol": Demo(DEMO_AS_OF, prices.generate),
    "market_vol_5d": Demo(DEMO_AS_OF, prices.generate),
    "liquidity_5d": Demo(DEMO_AS_OF, prices.generate),
    "liquidity_spread_5d": Demo(DEMO_AS_OF, prices.generate),
    "signals_5d": Demo(DEMO_AS_OF, prices.generate),
}
"""By portfolio; the first is the demo's own."""
