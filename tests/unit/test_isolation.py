"""The isolation forest: path lengths of scikit-learn itself, told apart by feature."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import IsolationForest

from metarisk.bases.fitted import Labelled
from metarisk.bases.isolation import ROWS, TREES, IsolationBase, _filled, _unfinished
from metarisk.tasks import LABEL
from tests.unit.loan_examples import PORTFOLIO, support


@pytest.fixture(scope="module")
def teach() -> pl.DataFrame:
    return support()


@pytest.fixture(scope="module")
def base(teach: pl.DataFrame) -> IsolationBase:
    return IsolationBase.fit(Labelled(teach, teach[LABEL].to_numpy(), PORTFOLIO.features, PORTFOLIO.columns))


def test_path_lengths_are_those_of_scikit_learn(teach: pl.DataFrame, base: IsolationBase) -> None:
    inputs = _filled(base.encoder, teach)
    theirs = IsolationForest(n_estimators=TREES, max_samples=min(ROWS, len(inputs)), random_state=0).fit(inputs)
    lengths = -np.log2(-theirs.score_samples(inputs)) * _unfinished(min(ROWS, len(inputs)))
    ours = (base.predict(teach) - base.intercept) / base.slope
    np.testing.assert_allclose(ours, lengths, rtol=1e-9)


def test_it_never_sees_a_label_but_for_the_line(teach: pl.DataFrame, base: IsolationBase) -> None:
    y = np.random.default_rng(0).permutation(teach[LABEL].to_numpy())
    other = IsolationBase.fit(Labelled(teach, y, PORTFOLIO.features, PORTFOLIO.columns))
    assert all((a["feature"] == b["feature"]).all() for a, b in zip(base.trees, other.trees, strict=True))
    assert other.slope != base.slope


def test_an_odd_value_is_told_of_its_feature(teach: pl.DataFrame, base: IsolationBase) -> None:
    usual = teach.head(1)
    odd = usual.with_columns(burden=pl.lit(1e4))
    moved = (base.contributions(odd) - base.contributions(usual))[0] / base.slope
    assert moved[base.features().index("burden")] < -1  # set apart by fewer cuts
    assert int(np.argmin(moved[:-1])) == base.features().index("burden")
