"""A monotone feature never turns the fused score round: trees, linear half and head, with or against the data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarisk.adapt import Adapted, adapt
from metarisk.domain import Portfolio
from metarisk.features import Encoder
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, at_risk, book, fitted, to_score


def declared(burden: int, income: int) -> Portfolio:
    features = dict(PORTFOLIO.features)
    for name, direction in (("burden", burden), ("income", income)):
        features[name] = replace(features[name], monotone=direction)
    return replace(PORTFOLIO, features=features)


@cache
def night(recipe: str, burden: int, income: int) -> Adapted:
    portfolio = declared(burden, income)
    return adapt(fitted(recipe, book(), portfolio, AS_OF), "m", at_risk(), portfolio, SPEC)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    recipe=st.sampled_from(["map_head", "blend", "hazard_head"]),
    directions=st.sampled_from([(1, -1), (-1, 1)]),
    row=st.integers(0, 300),
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    feature=st.sampled_from(["burden", "income"]),
)
def test_a_larger_value_never_moves_the_fused_score_against_its_direction(recipe, directions, row, values, feature):
    one = to_score()[row % to_score().height]
    frame = pl.concat([one.with_columns(pl.lit(value).alias(feature)) for value in sorted(values)])
    link, _ = night(recipe, *directions).score(frame, declared(*directions))
    direction = directions[("burden", "income").index(feature)]
    assert (direction * np.diff(link) >= -1e-12).all()


@pytest.mark.parametrize("recipe", ["map_head", "blend"])
def test_with_the_data_the_score_still_moves(recipe):
    one = to_score()[0]
    frame = pl.concat([one.with_columns(burden=pl.lit(value)) for value in (-2.0, 2.0)])
    link, _ = night(recipe, 1, 0).score(frame, declared(1, 0))
    assert link[1] > link[0] + 0.5


def test_signs_stand_at_the_number_and_not_at_its_missing_indicator():
    encoder = Encoder.fit(book(), declared(1, -1).features, "opened")
    signs = dict(zip(encoder.columns, encoder.signs, strict=True))
    assert (signs["burden"], signs["income"], signs["income missing"]) == (1, -1, 0)
    assert sum(abs(sign) for sign in signs.values()) == 2
