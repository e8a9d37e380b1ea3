"""The baseline of segments' own rates: counts over exposures, half an event at the pooled rate, no feature."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from metarisk.bases import BASES, RateBase
from metarisk.bases.fitted import Labelled
from metarisk.domain import Columns, Feature

COLUMNS = Columns("id", "opened_on", ("place", "kind"), value="y", exposure="hours")
FRAME = pl.DataFrame({"place": ["a", "a", "b", None], "kind": ["x", "x", "x", "x"], "f": [1.0, 2.0, 3.0, 4.0]})
Y, HOURS = np.array([2.0, 1.0, 0.0, 3.0]), np.array([10.0, 20.0, 5.0, 15.0])


def fitted(hours: np.ndarray | None = HOURS) -> RateBase:
    base = BASES["rates"].model.fit(Labelled(FRAME, Y, {"f": Feature("numeric")}, COLUMNS, hours, likelihood="poisson"))
    assert isinstance(base, RateBase)
    return base


def test_a_cell_has_its_own_rate_and_a_new_one_the_pooled() -> None:
    base = fitted()
    pooled = math.exp(base.pooled)
    assert pooled == pytest.approx(6 / 50, rel=0.1)
    rate = [(3 + 0.5) / (30 + 0.5 / pooled)] * 2 + [0.5 / (5 + 0.5 / pooled), 3.5 / (15 + 0.5 / pooled)]
    assert base.predict(FRAME) == pytest.approx(np.log(rate))
    new = pl.DataFrame({"place": ["b", "z"], "kind": ["y", "x"]})
    assert base.predict(new) == pytest.approx([math.log(pooled)] * 2)
    assert fitted(None).predict(FRAME)[0] == pytest.approx(math.log(3 / 2), abs=0.1)


def test_contributions_sum_to_the_score_and_text_keeps_it() -> None:
    base = fitted()
    parts = base.contributions(FRAME)
    assert base.features() == ("place",)
    assert parts.sum(axis=1) == pytest.approx(base.predict(FRAME))
    assert parts[:, 1] == pytest.approx(base.pooled)
    again = RateBase.from_text(base.to_text())
    assert np.array_equal(again.predict(FRAME), base.predict(FRAME))
