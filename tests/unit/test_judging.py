"""What is chosen before rows are judged: forward splits, weights of bases, and the baseline to compare with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from metarisk import judging, training
from metarisk.adapt import FittedModel
from metarisk.domain import Validation
from metarisk.tasks import LABEL, MATURE, OPPONENT
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, at_risk, book, fitted, silent, support

NAMES = ("pooled_logistic", "segment_logistic", "map_head")
TWO_FOLDS = replace(PORTFOLIO, validation=Validation(2, 4))


def test_a_forward_split_is_older_rows_and_the_newest_quarter_of_the_mature_ones():
    teach = at_risk()
    older, newer = training.forward_split(teach, PORTFOLIO)
    assert older["opened"].max() < newer["opened"].min()
    assert newer[MATURE].all()
    assert older.filter(MATURE).height + newer.height == teach[MATURE].sum()
    assert newer.height == pytest.approx(0.25 * teach[MATURE].sum(), rel=0.02)
    mixed = training.forward_split(teach.sample(fraction=1, shuffle=True, seed=1), PORTFOLIO)
    assert [part.sort("loan").equals(whole.sort("loan")) for part, whole in zip(mixed, (older, newer), strict=True)]


def weights(frame: pl.DataFrame) -> tuple[float, ...]:
    return training.choose_weights(training.recipe_of("tuned_ensemble", PORTFOLIO), frame, PORTFOLIO, SPEC, "bernoulli")


def test_weights_follow_the_base_that_can_read_the_labels_and_stay_equal_where_neither_is_surely_better():
    teach = support()
    # risky in the middle of incomes: no straight line has it
    crossed = teach["income"].fill_null(0).is_between(1_500, 6_000)
    noise = np.random.default_rng(0).random(teach.height) < 0.2
    trees = weights(teach.with_columns(pl.Series(LABEL, (crossed.to_numpy() ^ noise).astype(float))))
    assert trees[0] > 0.5
    assert sum(trees) == 1
    coin = np.random.default_rng(1).random(teach.height) < 0.2
    assert weights(teach.with_columns(pl.Series(LABEL, coin.astype(float)))) == ()


def test_weights_come_with_the_model_and_mix_the_scores_of_its_bases():
    model = replace(fitted("tuned_ensemble", book()), weights=(0.75, 0.25))
    rows = book(50, seed=2)
    first, second = (base.full.predict(rows) for base in model.bases)
    np.testing.assert_allclose(model.fresh(rows)[1], 0.75 * first + 0.25 * second, atol=1e-12)
    again = FittedModel.from_files(model.to_files())
    np.testing.assert_array_equal(again.fresh(rows)[1], model.fresh(rows)[1])
    names, parts = model.contributions(rows)
    assert len(names) + 1 == parts.shape[1]
    np.testing.assert_allclose(parts.sum(axis=1), model.fresh(rows)[1], atol=1e-9)


@pytest.fixture(scope="module")
def judged() -> pl.DataFrame:
    frame = book(3_000, seed=5)
    return judging.walk_forward(frame.lazy(), TWO_FOLDS, SPEC, NAMES, AS_OF, seed=0, progress=silent)


def test_the_opponent_of_a_fold_is_the_baseline_that_lost_least_before_it(judged):
    first, second = judged.partition_by("fold", maintain_order=True)
    y = first[LABEL].to_numpy()
    losses = {name: np.logaddexp(0, first[name]) @ np.ones(len(y)) - y @ first[name].to_numpy() for name in NAMES[:2]}
    assert set(second[OPPONENT]) == {min(losses, key=losses.__getitem__)}
    # whatever came of a fold's own rows says nothing about its opponent
    teach = at_risk(book(3_000, seed=5))
    turned = first.with_columns(pooled_logistic=-pl.col("pooled_logistic"))
    worse = judging.opponent([turned], teach, PORTFOLIO, SPEC, NAMES, seed=0)
    assert worse == "segment_logistic"


def test_without_earlier_folds_a_forward_split_chooses_and_with_too_few_events_the_plainest():
    teach = at_risk()
    effect = teach.with_columns(pl.when(region="north").then(0.0).otherwise(pl.col(LABEL)).alias(LABEL))
    assert judging.opponent([], effect, PORTFOLIO, SPEC, NAMES, seed=0) == "segment_logistic"
    assert judging.opponent([], teach.head(60), PORTFOLIO, SPEC, NAMES, seed=0) == "pooled_logistic"
    assert judging.opponent([], teach, PORTFOLIO, SPEC, ("map_head", "segment_logistic"), seed=0) == "segment_logistic"
