"""A segment whose labels are noise is scored as the pool scores it, within a band that the learned variances state."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from metarisk.adapt import adapt
from metarisk.calibration import Calibration
from metarisk.scoring import mean_score, pooled
from metarisk.tasks import LABEL
from tests.unit.loan_examples import PORTFOLIO, PRODUCTS, REGIONS, SPEC, model, support, to_score

BAND = 4.0
"""Prior standard deviations of a segment's effect (parents and cell) within which noise leaves its scores."""


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), region=st.sampled_from(REGIONS), product=st.sampled_from(PRODUCTS))
def test_noise_in_a_segments_labels_keeps_its_scores_in_the_band(seed: int, region: str, product: str) -> None:
    here = (pl.col("region") == region) & (pl.col("product") == product)
    rows, scored = support(), to_score().filter(here)
    fitted = model()
    # labels that follow the pooled probability and nothing of the segment
    p = special.expit(fitted.unseen(rows)[1])
    noise = pl.Series((np.random.default_rng(seed).random(rows.height) < p).astype(float))
    night = adapt(
        fitted, "m", rows.with_columns(pl.when(here).then(noise).otherwise(LABEL).alias(LABEL)), PORTFOLIO, SPEC
    )
    link, _ = night.score(scored, PORTFOLIO)
    alone = special.logit(pooled(scored, night, PORTFOLIO, Calibration()))
    state = fitted.state
    spread = np.sqrt(state["parent_variance"].sum() + state["cell_variance"]) * state["damping"]
    assert np.abs(link - alone).max(initial=0.0) <= BAND * spread
    # and in points of probability: what a reader sees
    shift = np.abs(mean_score(night, link) - mean_score(night, alone)).max(initial=0.0)
    assert shift <= BAND * spread / 4
