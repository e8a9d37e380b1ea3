"""Rows to risk scores in flat memory: one batch in, one batch out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

import numpy as np
import polars as pl
import torch

from metarisk.adapt import Adapted
from metarisk.domain import Array, Portfolio, segment_name
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.tasks import segment_keys

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
    "adaptation_id": pl.String,
}


def score(
    batches: Iterable[pl.DataFrame], adapted: Adapted, portfolio: Portfolio, *, run_id: str, as_of: date
) -> Iterator[pl.DataFrame]:
    """Score batches of population rows; yields frames of SCHEMA in the same order.

    The interval is a central 90 % one from the posterior variance of the score on the link scale; it is null where
    the learner gives no variance.
    """
    for frame in batches:
        link, variance = adapted.score(frame, portfolio)
        spread = Z90 * np.sqrt(variance) if variance is not None else None
        keys, codes = segment_keys(frame, portfolio)
        known = [adapted.segments.get(key) for key in keys]
        names = np.array([segment_name(key) for key in keys], dtype=object)
        status = np.array([s.status if s else "fallback" for s in known], dtype=object)
        identity = np.array([s.adaptation_id if s else None for s in known], dtype=object)
        mean = mean_score(adapted, link)
        yield pl.DataFrame(
            {
                "run_id": run_id,
                "portfolio": portfolio.name,
                "as_of": as_of,
                "entity": frame[portfolio.columns.entity],
                "target": portfolio.target.name,
                "segment": pl.Series(names[codes], dtype=pl.String),
                "status": pl.Series(status[codes], dtype=pl.String),
                "score": mean,
                "score_low": None if spread is None else mean_score(adapted, link - spread),
                "score_high": None if spread is None else mean_score(adapted, link + spread),
                "adaptation_id": pl.Series(identity[codes], dtype=pl.String),
            },
            schema=SCHEMA,
        )


def mean_score(adapted: Adapted, link: Array) -> Array:
    """Scores on the target's own scale."""
    return np.asarray(LIKELIHOODS[adapted.model.likelihood].mean(torch.from_numpy(link)))
