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
        spread = Z90 * np.sqrt(np.maximum(variance, 0.0)) if variance is not None else None
        keys, codes = segment_keys(frame, portfolio)
        known = [adapted.segments.get(key) for key in keys]
        about = {
            "segment": [segment_name(key) for key in keys],
            "status": [segment.status if segment else "fallback" for segment in known],
            "adaptation_id": [segment.adaptation_id if segment else None for segment in known],
        }
        of_row = pl.DataFrame(about, schema={name: SCHEMA[name] for name in about})[codes]
        yield pl.DataFrame(
            {
                "run_id": run_id,
                "portfolio": portfolio.name,
                "as_of": as_of,
                "entity": frame[portfolio.columns.entity],
                "target": portfolio.target.name,
                "segment": of_row["segment"],
                "status": of_row["status"],
                "score": mean_score(adapted, link),
                "score_low": None if spread is None else mean_score(adapted, link - spread),
                "score_high": None if spread is None else mean_score(adapted, link + spread),
                "adaptation_id": of_row["adaptation_id"],
            },
            schema=SCHEMA,
        )


def mean_score(adapted: Adapted, link: Array) -> Array:
    """Scores (N,) on the target's own scale of link-scale ones.

    Blocks are full, because torch rounds the odd end of an array in another way than the rest: so a row's score does
    not depend on its place.
    """
    mean = LIKELIHOODS[adapted.model.likelihood].mean
    blocks = np.zeros((-(-len(link) // BLOCK), BLOCK))
    blocks.flat[: len(link)] = link
    for block in blocks:
        block[:] = mean(torch.from_numpy(block)).numpy()
    return blocks.ravel()[: len(link)]
