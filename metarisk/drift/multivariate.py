"""All features together, portfolio-wide: can a classifier tell tonight's rows from those of the reference?

What moves between features (a correlation that turns) leaves every histogram as it was. A classifier that tells two
samples apart on rows that it has not seen has found a difference; its AUC there is a test of its own (Friedman 2003;
Lopez-Paz and Oquab 2017). Rows are held as their bins, so that a reference keeps no value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy import stats

from metarisk.domain import Array
from metarisk.drift import inputs
from metarisk.drift.decide import DISCOVERY_RATE, blind, rows_of
from metarisk.drift.histograms import Bins, codes, from_frame
from metarisk.drift.measure import Beside, Measure, Night, Scored, Week, parquet
from metarisk.metrics import auc

SAMPLE = "reference.sample.parquet"
ROWS = 2_000
"""Rows that a sample holds: an AUC of 0.55 lies four standard errors above 0.5."""
FEWEST = 200
WATCH, ALERT = 0.05, 0.10
"""Least excess of the AUC over 0.5; a shift of one feature by 0.18 and 0.36 standard deviations."""
METRIC = "domain_auc"


def sample(frame: pl.LazyFrame, bins: Mapping[str, Bins]) -> pl.DataFrame:
    """Every k-th row of a frame as bin numbers, ROWS at most, one column a feature that can be counted."""
    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    if not rows:
        return pl.DataFrame(schema=dict.fromkeys(bins, pl.Int16))
    every = frame.gather_every(max(1, -(-rows // ROWS)))
    return codes(every, bins).select(pl.all().cast(pl.Int16))


def judge(reference: pl.DataFrame | None, current: pl.DataFrame) -> pl.DataFrame:
    """One row of `drift_metric`: the AUC by which unseen rows of both samples are told apart.

    Two classifiers are each fitted on a half of the rows and judged on the other by the exact or normal rank test; the
    smaller p counts twice (Bonferroni), so that the test holds its level whatever the classifier learns.
    """
    if reference is None:
        return blind("the model has no sample of its reference: seen again after the next weekly run", metric=METRIC)
    names = [name for name in reference.columns if name in current.columns]
    if not names or min(reference.height, current.height) < FEWEST:
        few = f"too few rows: {current.height:,} tonight, {reference.height:,} in the reference"
        return blind(few if names else "no feature can be counted", metric=METRIC)
    x = np.vstack([frame.select(names).to_numpy() for frame in (reference, current)]).astype(float)
    tonight = np.repeat([0, 1], [reference.height, current.height])
    half = np.random.default_rng(0).permutation(len(x)) % 2
    found = [_told_apart(x, tonight, half == number) for number in (0, 1)]
    value, p = float(np.mean([area for area, _, _ in found])), min(1.0, 2.0 * min(p for _, p, _ in found))
    gain = np.sum([gains for _, _, gains in found], axis=0)
    effect = value - 0.5
    sure = p <= DISCOVERY_RATE
    status = "alert" if sure and effect >= ALERT else "watch" if sure and effect >= WATCH else "ok"
    heaviest = ", ".join(names[i] for i in np.argsort(-gain, kind="stable")[:3])
    sizes = {"n_ref": [reference.height], "n_cur": [current.height]}
    return rows_of(
        {"level": ["all"], "segment": [None], "status": [status]} | sizes,
        None, METRIC, value=np.array([value]), effect=np.array([effect]), p=np.array([p]), q=np.array([p]),
        threshold=np.array([ALERT if status == "alert" else WATCH]),
        detail=[f"told apart by {heaviest}" if status != "ok" else ""],
    )  # fmt: skip


def _told_apart(x: Array, tonight: Array, judged: Array) -> tuple[float, float, Array]:
    """AUC on the judged rows by a classifier of the others, its one-sided rank test, and the gain of each feature."""
    import lightgbm

    parameters = {
        "objective": "binary", "num_leaves": 8, "learning_rate": 0.1, "min_data_in_leaf": 20, "lambda_l2": 5.0,
        "seed": 0, "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
    }  # fmt: skip
    booster = lightgbm.train(parameters, lightgbm.Dataset(x[~judged], tonight[~judged]), 60)
    score, label = np.asarray(booster.predict(x[judged])), tonight[judged]
    rank = stats.mannwhitneyu(score[label == 1], score[label == 0], alternative="greater")
    return auc(score, label), float(rank.pvalue), np.asarray(booster.feature_importance("gain"))


def _sampled(scored: Scored, beside: Beside) -> pl.DataFrame | None:
    """Rows on the bins of the histograms beside the model; None where these are gone."""
    known = inputs.known(beside)
    return None if known is None else sample(scored.frame, from_frame(known)[1].bins)


def _keep(week: Week) -> Mapping[str, bytes]:
    rows = _sampled(week.scored, week.beside)
    return {} if rows is None else {SAMPLE: parquet(rows)}


def _judge(night: Night) -> pl.DataFrame:
    known = night.beside.table(SAMPLE)
    now = None if known is None else _sampled(night.scored, night.beside)
    return judge(None, pl.DataFrame()) if now is None else judge(known, now)


MEASURE = Measure("together", _judge, _keep, tests=(METRIC,), opening=(METRIC,))
