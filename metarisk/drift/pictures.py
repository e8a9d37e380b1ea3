"""One feature of one segment, side by side: what a histogram test compared, in bins that a person can read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.domain import Array
from metarisk.drift import distances
from metarisk.drift.decide import bin_name, group
from metarisk.drift.histograms import from_frame

MOST_LEVELS = 9


@dataclass(frozen=True)
class Side:
    """Shares of the rows of the reference and of a night in one bin."""

    name: str
    reference: float
    current: float


def side_by_side(reference: pl.DataFrame, current: pl.DataFrame, segment: str | None, feature: str) -> tuple[Side, ...]:
    """The bins of a feature: tenths of the reference or its largest categories, then what is missing.

    Args:
        reference, current: histograms as tables on the same bins.
        segment: name of a group that was judged; None: the whole portfolio.

    Empty where the feature or the segment was not judged.
    """
    segments, before = from_frame(reference)
    now = from_frame(current)[1]
    groups = group(segments, before, now)
    names = [name for _, name in groups.names]
    if feature not in before.bins or feature not in now.bins or segment not in names:
        return ()
    g, bins = names.index(segment), before.bins[feature]
    ref, cur = (groups.sum(counts.counts[feature])[g : g + 1] for counts in (before, now))
    if bins.kind == "categorical":
        into = _largest(ref[0] + cur[0])[None]
    else:
        into = distances.tenths(ref[:, :-1])
        into = np.append(into, into.max() + 1)[None]
    width = int(into.max()) + 1
    shares = [distances.merge(counts, into)[0] / max(counts.sum(), 1) for counts in (ref, cur)]
    members = [np.flatnonzero(into[0] == number) for number in range(width)]
    texts = [
        "other values" if bins.kind == "categorical" and len(held) > 1 else bin_name(bins, held) for held in members
    ]
    sides = [Side(text, float(r), float(c)) for text, r, c in zip(texts, *shares, strict=True)]
    return tuple(side for side in sides if side.reference or side.current)


def _largest(counts: Array) -> Array:
    """Number of each category's bar (B,): the largest have one each, the rest share one, then what is missing."""
    order = np.argsort(-counts[:-1], kind="stable")
    into = np.full(len(counts), min(MOST_LEVELS, len(counts) - 1))
    into[order[:MOST_LEVELS]] = np.arange(min(MOST_LEVELS, len(order)))
    into[-1] = into[:-1].max() + 1
    return into
