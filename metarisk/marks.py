"""Single values of a column that follow the outcome: a gap, a zero or a level that goes with the event, or its absence.

Three questions, each by exact bounds on counts, and the limits from which a ranking is odd. A draft and a week ask the
same here. Nothing here compares features with each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from metarisk.domain import Array, FeatureKind

CERTAIN_AUC, SURE_AUC = 0.99, 0.95
"""No honest feature ranks by itself as well as the first; nor as the second, unless others of its book nearly do. The
95 % lower bound must reach them."""
ODD_AUC, ODD_LOW = 0.80, 0.75
"""What a feature alone must reach, and its 95 % lower bound, to be suspected: bureau scores stay below."""
LIMIT = 0.995
"""Each bound holds with this confidence: a book has some hundred values to ask about."""
QUIET_RISK, QUIET_AREA = 0.03, 0.80
"""Rows of a value have at most this share of the risk of other rows, and an AUC of their own of at least that."""
LOUD_RATE, LOUD_ODDS = 0.80, 30.0
"""Rows of a value have the event at least at this rate, and at so many times the odds of other rows."""
LATE_LIFT, LATE_SHARE = 3.0, 0.20
"""A value goes with the event so many times more often, and is found at most at this share among rows whose outcome is
open of what rows of the same age had that were waited for."""
LEAST_ROWS = 20
"""Rows that must have a value, or be expected to, before it is asked about."""
FEW_VALUES = 20
"""Numbers of no more values may be codes in no order, so they are taken as categories."""
MOST_LEVELS = 200
"""Most frequent values of a column that are looked at one by one."""


@dataclass(frozen=True)
class Rows:
    """Rows of a book with what became of them, all arrays (N,) of booleans."""

    mature: Array
    event: Array
    late: Array
    """Mature, and the outcome not known at the age that open rows have by now."""

    @property
    def open(self) -> Array:
        """Immature, and no event known."""
        return ~self.mature & ~self.event

    @classmethod
    def settled(cls, event: Array) -> Rows:
        """Of rows whose outcomes are all known."""
        return cls(np.ones(len(event), dtype=bool), event, np.zeros(len(event), dtype=bool))


def mark_findings(values: pl.Series, rows: Rows, kind: FeatureKind) -> str:
    """What one of a feature's values (N,) gives away, in words with figures; empty if none does."""
    for words, has in _values(values, kind):
        for told in (_quiet(rows, words, has), _loud(rows, words, has), _late(rows, words, has)):
            if told:
                return told
    return ""


def _values(column: pl.Series, kind: FeatureKind) -> Iterator[tuple[str, Array]]:
    """Values worth asking about, in words with where they are; the absence of the commonest one too.

    Of a quantity the commonest alone (a zero, say): its other values are points on a scale.
    """
    missing = column.is_null().to_numpy()
    if missing.any():
        yield "a missing value", missing
        yield "any value", ~missing
    counts = column.drop_nulls().value_counts()
    few = kind == "categorical" or counts.height + missing.any() <= FEW_VALUES
    common = counts.filter(pl.col("count") >= LEAST_ROWS).sort("count", column.name, descending=[True, False])
    common = common.head(MOST_LEVELS if few else 1)
    texts = common[column.name].cast(pl.String)
    for place, (value, text) in enumerate(zip(common[column.name], texts, strict=True)):
        has = (column == value).fill_null(False).to_numpy()
        shown = text if len(text) <= 30 else f"{text[:29]}…"
        yield repr(shown), has
        if place == 0:
            yield f"another value than {shown!r}", ~has & ~missing


def _quiet(rows: Rows, words: str, has: Array) -> str:
    n, k, others, events = _counts(rows, has)
    if min(n, others) < LEAST_ROWS or not events:
        return ""
    area = 0.5 * (1 + _good(n, k) / max(_good(n, k) + _good(others, events), 1) - k / (k + events))
    if area < QUIET_AREA or _high(k, n) > QUIET_RISK * _low(events, others):
        return ""
    return f"{words} means no event: {k:,} of {n:,} such rows had one, {events:,} of {others:,} others"


def _loud(rows: Rows, words: str, has: Array) -> str:
    n, k, others, events = _counts(rows, has)
    if min(n, others) < LEAST_ROWS:
        return ""
    low, high = _low(k, n), _high(events, others)
    if low < LOUD_RATE or low / (1 - low) < LOUD_ODDS * high / (1 - high):
        return ""
    return f"{words} means the event: {k:,} of {n:,} such rows had one, {events:,} of {others:,} others"


def _late(rows: Rows, words: str, has: Array) -> str:
    n, k, others, events = _counts(rows, has)
    told = ~rows.mature & rows.event
    waits, late = int(rows.open.sum()), float(has[rows.late].mean()) if rows.late.any() else 0.0
    if min(n, others, late * waits) < LEAST_ROWS or not told.any():
        return ""
    found = int(has[rows.open].sum())
    with_event = _low(int(has[told].sum()), int(told.sum()))
    follows = _low(k, n) >= LATE_LIFT * _high(events, others) and with_event >= LATE_LIFT * max(
        late, _high(found, waits)
    )
    if not follows or _high(found, waits) > LATE_SHARE * late:
        return ""
    return (
        f"{words} comes once the outcome is known: {late:.1%} of the rows that were waited for have it, but {found:,} "
        f"of {waits:,} whose outcome is open"
    )


def _counts(rows: Rows, has: Array) -> tuple[int, int, int, int]:
    """Mature rows with a value and their events, mature rows without it and theirs."""
    inside, outside = rows.mature & has, rows.mature & ~has
    return int(inside.sum()), int(rows.event[inside].sum()), int(outside.sum()), int(rows.event[outside].sum())


def _good(rows: int, events: int) -> int:
    """Rows without the event."""
    return rows - events


def _low(events: int, rows: int) -> float:
    """Lower bound of a rate (Clopper and Pearson 1934)."""
    return float(stats.beta.ppf(1 - LIMIT, events, rows - events + 1)) if events else 0.0


def _high(events: int, rows: int) -> float:
    return float(stats.beta.ppf(LIMIT, events + 1, rows - events)) if events < rows else 1.0
