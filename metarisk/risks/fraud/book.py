"""Card transactions with a known truth: 48 segments of merchant class x region, three ways of fraud, late confirmation.

What is in it, and why:

- **Cards** shop at a rate and for amounts of their own, mostly at a few terminals near them, from January to July 2025;
  about one transaction in a hundred is fraud.
- **Compromised terminals**: every few weeks some terminal is, for three weeks; then half of what is made there is fraud
  of ordinary amount. Only the terminal's confirmed frauds give it away, so labels must be used as late as they come.
- **Stolen cards**: for ten days half of the transactions of a card are fraud, of four times its amounts.
- **Card testing**, the new pattern: from 12 June on, cents are taken at night at online terminals. No label of it
  exists when a model of May is trained.
- **Segments**: terminals of some classes, and cards of some regions, are hit more often than others.
- **Confirmation** comes 1 to 9 days after a fraud, later for small amounts. What nobody confirms is not fraud.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[Any]

DEMO_CARDS = 1_000
"""Cards at scale 1."""
CARD_TESTING_FROM = np.datetime64("2025-06-12")

_FIRST, _LAST = np.datetime64("2025-01-01"), np.datetime64("2025-07-31")
_DAYS = int((_LAST - _FIRST).astype(int)) + 1
_CHUNK = 250
_TERMINALS = 600
_NEAR = 12
"""Terminals at which a card usually shops."""
_CLASSES = np.array(
    ["grocery", "fuel", "dining", "online", "clothing", "electronics", "travel", "jewellery"], dtype=object
)
_ONLINE = 3
_REGIONS = np.array(["north", "capital", "coast", "west", "lakes", "south"], dtype=object)
_COMPROMISED_DAYS, _STOLEN_DAYS = 21, 10
_TRANSACTIONS = pa.schema(
    [
        ("transaction_id", pa.int64()),
        ("made_at", pa.timestamp("s")),
        ("card_id", pa.int64()),
        ("terminal_id", pa.int64()),
        ("card_group", pa.string()),
        ("terminal_group", pa.string()),
        ("amount", pa.float64()),
        ("currency", pa.string()),
    ]
)
_FRAUDS = pa.schema([("transaction_id", pa.int64()), ("confirmed_on", pa.date32())])


@dataclass(frozen=True)
class _World:
    """What all cards share: terminals, and when they are compromised."""

    seed: int
    kind: Array
    """Merchant class of each terminal (terminals,)."""
    compromised: Array
    """Whether a terminal is compromised on a day, bool (terminals, days)."""
    region_share: Array
    theft: Array
    """Thefts a card and day, by region."""


def generate(scale: float = 1.0, seed: int = 0) -> Mapping[str, pa.RecordBatchReader]:
    """The demo's card transactions as streams of batches, in flat memory.

    Args:
        scale: multiplies the 1,000 cards (some 120,000 transactions); a smaller scale has the first cards of a larger.
        seed: of everything that is drawn.

    Returns:
        `card_transactions` (one row a transaction) and `card_frauds` (one row a fraud, with the day of confirmation).

    Raises:
        ValueError: a scale that gives no card.
    """
    cards = round(DEMO_CARDS * scale)
    if cards < 1:
        raise ValueError(f"a scale of {scale} gives no card; use {1 / DEMO_CARDS:.1e} or more")
    world = _world(seed)

    def batches(schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for chunk in range(-(-cards // _CHUNK)):
            x = _draw(world, chunk)
            kept = x["card"] < cards
            yield _batch({name: values[kept] for name, values in x.items()}, schema)

    return {
        "card_transactions": pa.RecordBatchReader.from_batches(_TRANSACTIONS, batches(_TRANSACTIONS)),
        "card_frauds": pa.RecordBatchReader.from_batches(_FRAUDS, batches(_FRAUDS)),
    }


def _world(seed: int) -> _World:
    rng = np.random.default_rng([seed, 10])
    share = 1 / np.arange(1, len(_CLASSES) + 1) ** 0.8
    kind = rng.choice(len(_CLASSES), _TERMINALS, p=share / share.sum())
    # Fuel pumps and shops of electronics are skimmed more often than others.
    rate = 0.0004 * np.exp(rng.normal(0, 0.5, len(_CLASSES)) + 0.8 * np.isin(_CLASSES, ["fuel", "electronics"]))
    compromised = _spells(rng.random((_TERMINALS, _DAYS)) < rate[kind][:, None], _COMPROMISED_DAYS)
    region = 1 / np.arange(1, len(_REGIONS) + 1)
    theft = 0.0007 * np.exp(rng.normal(0, 0.5, len(_REGIONS)))
    return _World(seed, kind, compromised, region / region.sum(), theft)


def _draw(world: _World, chunk: int) -> dict[str, Array]:
    """Transactions of a whole chunk of cards in order of card and time, each an array (N,)."""
    rng = np.random.default_rng([world.seed, 11, chunk])
    region = rng.choice(len(_REGIONS), _CHUNK, p=world.region_share)
    usual = np.exp(rng.normal(3.3, 0.5, _CHUNK))
    near = rng.integers(0, _TERMINALS, (_CHUNK, _NEAR))
    stolen = _spells(rng.random((_CHUNK, _DAYS)) < world.theft[region][:, None], _STOLEN_DAYS)
    made = rng.poisson(np.exp(rng.normal(-0.75, 0.5, _CHUNK))[:, None], (_CHUNK, _DAYS))
    card, day = (np.repeat(place, made.ravel()) for place in np.indices(made.shape).reshape(2, -1))
    n = len(card)
    terminal = np.where(rng.random(n) < 0.85, near[card, rng.integers(0, _NEAR, n)], rng.integers(0, _TERMINALS, n))
    hour = np.clip(rng.normal(14, 4, n), 0, 23.99)
    amount = usual[card] * np.exp(rng.normal(0, 0.6, n)) * np.where(world.kind[terminal] >= 5, 2.0, 1.0)
    skimmed = world.compromised[terminal, day] & (rng.random(n) < 0.5)
    theft = stolen[card, day] & (rng.random(n) < 0.5)
    testing = (_FIRST + day >= CARD_TESTING_FROM) & (rng.random(n) < 0.003)
    amount = np.where(theft, 4 * amount, amount)
    amount = np.where(testing, rng.uniform(0.1, 3, n), amount)
    hour = np.where(testing, rng.uniform(0, 5, n), hour)
    online = np.flatnonzero(world.kind == _ONLINE)
    terminal = np.where(testing, online[rng.integers(0, len(online), n)], terminal)
    delay = np.where(amount < 20, 1, 0) + 1 + np.minimum(rng.gamma(1.5, 1.5, n), 7).astype(int)
    order = np.lexsort((hour, day, card))
    drawn = {
        "card": chunk * _CHUNK + card,
        "at": (_FIRST + day).astype("datetime64[s]") + (hour * 3600).astype("timedelta64[s]"),
        "day": _FIRST + day,
        "terminal": terminal,
        "region": region[card],
        "kind": world.kind[terminal],
        "amount": np.round(np.maximum(amount, 0.01), 2),
        "fraud": skimmed | theft | testing,
        "pattern": np.select([testing, theft, skimmed], [3, 2, 1], 0),
        "delay": delay,
    }
    in_order = {name: values[order] for name, values in drawn.items()}
    return in_order | {"id": chunk * 10_000_000 + np.arange(n)}


def _spells(begins: Array, days: int) -> Array:
    """Whether a spell of some days has begun and not ended, bool (N, days of the book)."""
    held = np.zeros_like(begins)
    for later in range(days):
        held[:, later:] |= begins[:, : begins.shape[1] - later]
    return held


def _batch(x: Mapping[str, Array], schema: pa.Schema) -> pa.RecordBatch:
    if schema is _FRAUDS:
        fraud = x["fraud"]
        confirmed = x["day"][fraud] + x["delay"][fraud]
        return pa.RecordBatch.from_arrays([pa.array(x["id"][fraud]), pa.array(confirmed)], schema=schema)
    columns = [
        pa.array(x["id"]),
        pa.array(x["at"]),
        pa.array(x["card"]),
        pa.array(x["terminal"]),
        pa.array(_REGIONS[x["region"]]),
        pa.array(_CLASSES[x["kind"]]),
        pa.array(x["amount"]),
        pa.array(np.full(len(x["id"]), "EUR", dtype=object)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
