"""Rows to risk scores in flat memory: one batch in, one batch out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import date

import numpy as np
import polars as pl
import torch

from metarisk import calibration
from metarisk.adapt import Adapted, one_thread, shifts
from metarisk.calibration import GRADED, Calibration
from metarisk.domain import Array, Portfolio, segment_name
from metarisk.features import KnownRange
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.reasons import as_json, reasons, without_segment
from metarisk.tasks import segment_keys

BLOCK = 1_024
Z90 = 1.6448536269514722
"""Normal quantile of a central 90 % interval."""
SCHEMA = {
    "run_id": pl.String,
    "portfolio": pl.String,
    "as_of": pl.Date,
    "entity": pl.String,
    "target": pl.String,
    "segment": pl.String,
    "status": pl.String,
    "score": pl.Float64,
    "score_low": pl.Float64,
    "score_high": pl.Float64,
    "grade": pl.String,
    "points": pl.Float64,
    "expected_loss": pl.Float64,
    "reasons": pl.String,
    "adaptation_id": pl.String,
    "extrapolated": pl.Boolean,
}
BASE = "base"
"""Column beside SCHEMA, kept in the lake and not published: the base score, from which any adaptation scores a row."""
KEPT = SCHEMA | {BASE: pl.Float64}
_DIGITS, _SIGN = 1 << 16, np.uint64(1 << 63)


def score(
    batches: Iterable[pl.DataFrame],
    adapted: Adapted,
    portfolio: Portfolio,
    *,
    run_id: str,
    as_of: date,
    level: Calibration | None = None,
    reasons_from: float = math.inf,
    known_range: KnownRange | None = None,
) -> Iterator[pl.DataFrame]:
    """Score batches of population rows; yields frames of KEPT in the same order.

    The interval is a central 90 % one from the posterior variance of the score on the link scale; it is null where
    the learner gives no variance. Probabilities of an event have points and a grade, and an expected loss where the
    portfolio names its columns.

    Args:
        level: shift on the link scale, by segment; None: none.
        reasons_from: link-scale score from which a row gets reasons. It comes with the model, so that a row's reasons
            depend on that row and the model alone.
        known_range: what labelled rows show, where rows outside of it are to be marked.
    """
    level = level or Calibration()
    for frame in batches:
        fresh = adapted.model.fresh(frame)
        link, variance = adapted.score(frame, portfolio, fresh)
        spread = Z90 * np.sqrt(np.maximum(variance, 0.0)) if variance is not None else None
        keys, codes = segment_keys(frame, portfolio)
        known = [adapted.segments.get(key) for key in keys]
        about = {
            "segment": [segment_name(key) for key in keys],
            "status": [segment.status if segment else "fallback" for segment in known],
            "adaptation_id": [segment.adaptation_id if segment else None for segment in known],
        }
        of_row = pl.DataFrame(about, schema={name: SCHEMA[name] for name in about})[codes]
        link = link + shifts(frame, portfolio, level)
        values = mean_score(adapted, link)
        yield pl.DataFrame(
            {
                "run_id": run_id,
                "portfolio": portfolio.name,
                "as_of": as_of,
                "entity": frame[portfolio.columns.entity],
                "target": portfolio.target.name,
                "segment": of_row["segment"],
                "status": of_row["status"],
                "score": values,
                "score_low": None if spread is None else mean_score(adapted, link - spread),
                "score_high": None if spread is None else mean_score(adapted, link + spread),
                **_scorecard(frame, adapted, portfolio, link, values),
                "reasons": _told(frame, adapted, portfolio, level, link >= reasons_from),
                "adaptation_id": of_row["adaptation_id"],
                "extrapolated": None if known_range is None else known_range.outside(frame),
                BASE: fresh[1],
            },
            schema=KEPT,
        )


def pooled(frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, level: Calibration) -> Array:
    """Scores (N,) that the rows would have in a segment that nobody knows: what the portfolio alone says of them."""
    link = without_segment(frame, adapted, portfolio, adapted.model.fresh(frame)[1])
    return mean_score(adapted, link + level.portfolio)


def segments_of(frame: pl.DataFrame, portfolio: Portfolio) -> pl.Series:
    """Printable name of each row's segment (N,)."""
    keys, codes = segment_keys(frame, portfolio)
    return pl.Series([segment_name(key) for key in keys], dtype=pl.String)[codes]


def reasons_cut(scores: Callable[[], Iterable[Array]], share: float) -> float:
    """The score from which the riskiest share of rows lies; infinite where that is none of them.

    Scores are selected by their bits, sixteen at a time from the highest: what is held are counts, however many rows.

    Args:
        scores: gives all scores in parts, the same at each of its five calls.
    """
    rows = sum(len(part) for part in scores())
    if share <= 0 or not rows:
        return math.inf
    if share >= 1:
        return -math.inf
    place, found = math.ceil(share * rows), 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(_DIGITS, dtype=np.int64)
        for part in scores():
            bits = _rising_bits(part)
            here = bits[(bits >> np.uint64(shift)) >> np.uint64(16) == found]
            digits = (here >> np.uint64(shift)) & np.uint64(_DIGITS - 1)
            counts += np.bincount(digits.astype(np.int64), minlength=_DIGITS)
        above = np.cumsum(counts[::-1])
        digit = int(np.searchsorted(above, place))
        place -= int(above[digit - 1]) if digit else 0
        found = found << 16 | (_DIGITS - 1 - digit)
    chosen = np.array(found, dtype=np.uint64)
    return float(np.where(chosen & _SIGN, chosen ^ _SIGN, ~chosen).view(np.float64))


def _rising_bits(values: Array) -> Array:
    """Bits of float64 (N,) as whole numbers, uint64 (N,), that rise as the floats do."""
    bits = np.ascontiguousarray(values + 0.0, dtype=np.float64).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _scorecard(
    frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, link: Array, values: Array
) -> dict[str, pl.Series | Array | None]:
    """Grade, points and expected loss of each row; null where the target has none."""
    card, columns, likelihood = portfolio.scorecard, portfolio.columns, adapted.model.likelihood
    if likelihood not in GRADED:
        return dict.fromkeys(("grade", "points", "expected_loss"))
    names = pl.Series([grade.name for grade in card.grades], dtype=pl.String)
    loss = None
    if columns.lgd is not None and columns.ead is not None:
        lgd, ead = (frame[column].cast(pl.Float64) for column in (columns.lgd, columns.ead))
        loss = pl.Series(calibration.expected_loss(values, lgd.to_numpy(), ead.to_numpy())).fill_nan(None)
    return {
        "grade": names[calibration.grade_numbers(values, card.grades)],
        "points": calibration.points(calibration.log_odds(link, likelihood), card),
        "expected_loss": loss,
    }


def _told(
    frame: pl.DataFrame, adapted: Adapted, portfolio: Portfolio, level: Calibration, worst: Array
) -> pl.Series | None:
    """Reasons as JSON for the rows of a mask (N,), null for the others."""
    if not worst.any():
        return None
    found = iter(reasons(frame.filter(pl.Series(worst)), adapted, portfolio, level))
    return pl.Series([as_json(next(found)) if told else None for told in worst], dtype=pl.String)


def mean_score(adapted: Adapted, link: Array) -> Array:
    """Scores (N,) on the target's own scale of link-scale ones.

    Blocks are full, because torch rounds the odd end of an array in another way than the rest: so a row's score does
    not depend on its place. One thread: on a busy machine several wait for each other at every block.
    """
    mean = LIKELIHOODS[adapted.model.likelihood].mean
    blocks = np.zeros((-(-len(link) // BLOCK), BLOCK))
    blocks.flat[: len(link)] = link
    with one_thread():
        for block in blocks:
            block[:] = mean(torch.from_numpy(block)).numpy()
    return blocks.ravel()[: len(link)]
