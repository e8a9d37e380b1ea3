"""Where a recipe loses: segment by segment, partially pooled."""

import numpy as np
import polars as pl
from scipy.special import expit
from scipy.stats import norm

from metarisk.domain import Portfolio, RiskSpec, segment_name
from metarisk.evidence.losses import opponent_link
from metarisk.metrics import benjamini_hochberg, judge_of
from metarisk.tasks import LABEL, OPPONENT, segment_keys, tells

BORROWED_ROWS = 100
"""Rows of the mean variance that stand beside a segment's own in the variance of its differences."""
TESTED_EVENTS = 5.0
"""Expected events of a segment below which no test is made: the normal tail of so few labels is not theirs."""
FALSE_DISCOVERIES = 0.05  # the usual level
Z95 = 1.959963984540054  # norm.ppf(0.975)


def by_segment(judged: pl.DataFrame, recipe: str, portfolio: Portfolio, spec: RiskSpec) -> list[dict[str, object]]:
    """Of each segment, what a recipe's loss differs by from the opponent's: rows for the table `evidence`.

    `value` is the partially pooled mean with its 95 % interval: normal around the mean of all segments, whose variance
    between segments is that of DerSimonian and Laird (1986, Controlled Clinical Trials 7, 177-188). The note says what
    was seen, and `worse` where the recipe loses significantly (one-sided, q <= 0.05 of Benjamini and Hochberg). The
    variance of a difference is that of its label, (z1 - z0)^2 p (1 - p) with logits z and their mean p: one taken from
    the labels would be smallest where no event came, and weigh those segments most. Of values it is the one seen.
    """
    if judged.is_empty() or recipe not in judged.columns or (judged[OPPONENT] == recipe).all():
        return []
    y, loss = judged[LABEL].to_numpy(), judge_of(spec.likelihood).of
    ours, theirs = judged[recipe].to_numpy(), opponent_link(judged)
    difference = loss(ours, y) - loss(theirs, y)
    keys, codes = segment_keys(judged, portfolio)
    rows = np.bincount(codes)
    events = np.bincount(codes, weights=tells(y, spec))
    seen = np.bincount(codes, weights=difference) / rows
    if spec.label == "event":
        chance = (expit(ours) + expit(theirs)) / 2
        spread, certain = (ours - theirs) ** 2 * chance * (1 - chance), chance * (1 - chance)
    else:
        spread, certain = (difference - seen[codes]) ** 2, np.ones(len(y))
    pooled = max(float(spread.mean()), 1e-30)
    variance = (np.bincount(codes, weights=spread) + pooled * BORROWED_ROWS) / (rows + BORROWED_ROWS) / rows
    weight = 1 / variance
    centre = float(weight @ seen / weight.sum())
    excess = float(weight @ (seen - centre) ** 2) - (len(seen) - 1)
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    between = max(excess / scale, 0.0) if scale > 0 else 0.0
    shrunk = centre + between / (between + variance) * (seen - centre)
    deviation = np.sqrt(between * variance / (between + variance) + 1 / weight.sum())
    tested = np.bincount(codes, weights=certain) >= TESTED_EVENTS
    worse = np.zeros(len(seen), dtype=bool)
    worse[tested] = benjamini_hochberg(norm.sf(seen[tested] / np.sqrt(variance[tested]))) <= FALSE_DISCOVERIES
    return [
        {
            "protocol": "segments",
            "candidate": recipe,
            "slice": segment_name(key),
            "metric": "loss_minus_opponent",
            "value": float(shrunk[s]),
            "low": float(shrunk[s] - Z95 * deviation[s]),
            "high": float(shrunk[s] + Z95 * deviation[s]),
            "rows": int(rows[s]),
            "events": int(events[s]),
            "note": f"{'worse' if worse[s] else 'not worse'}; seen {seen[s]:+.6f}",
        }
        for s, key in enumerate(keys)
    ]
