"""The encoder: what is missing, unseen, infinite or constant has a defined place in both matrices."""

import json
from dataclasses import asdict
from datetime import date

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metarisk.domain import Feature
from metarisk.features import CLIP, MAX_LEVELS, Encoder, KnownRange
from tests.unit.loan_examples import PORTFOLIO, book

FEATURES = PORTFOLIO.features


def frame(**columns) -> pl.DataFrame:
    rows = len(next(iter(columns.values())))
    return pl.DataFrame({"opened": [date(2022, 1, 1)] * rows} | columns)


def fit(feature: Feature, values, name: str = "a") -> tuple[Encoder, pl.DataFrame]:
    rows = frame(**{name: values})
    return Encoder.fit(rows, {name: feature}, "opened"), rows


def test_numbers_and_levels_are_those_of_scikit_learn():
    rows = book()
    normal = rows.with_columns(pl.Series("z", np.random.default_rng(3).uniform(-1, 1, rows.height)))
    features = {"z": Feature("numeric"), "channel": Feature("categorical")}
    design = Encoder.fit(normal, features, "opened").design(normal, np.float64)
    # tails are cut at the 0.1 and 99.9 per cent quantiles before centre and scale are taken
    z = normal["z"].to_numpy()
    fitted = StandardScaler().fit(np.clip(z, *np.quantile(z, [0.001, 0.999]))[:, None])
    np.testing.assert_allclose(design[:, 0], fitted.transform(z[:, None])[:, 0], atol=1e-12)
    levels = rows["channel"].value_counts(name="n").sort(["n", "channel"], descending=[True, False])["channel"]
    one_hot = OneHotEncoder(categories=[levels.to_list()], sparse_output=False).fit_transform(rows[["channel"]])
    np.testing.assert_array_equal(design[:, 1:], one_hot)


def test_unseen_and_missing_levels_are_nan_for_trees_and_no_column_for_linear_models():
    encoder, _ = fit(Feature("categorical"), ["x", "y", "x", None])
    other = frame(a=["y", "new", None, "x"])
    np.testing.assert_array_equal(encoder.raw(other)[:, 0], [1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(encoder.design(other), [[0, 1], [0, 0], [0, 0], [1, 0]])


def test_levels_are_ranked_by_rows_then_by_name_and_rare_ones_count_as_unseen():
    values = [f"v{i:03d}" for i in range(100)] + ["z"] * 2
    encoder, _ = fit(Feature("categorical"), values)
    assert encoder.levels["a"] == ("z", *sorted(values[:-2])[: MAX_LEVELS - 1])
    assert np.isnan(encoder.raw(frame(a=["v099"]))[0, 0])


@pytest.mark.parametrize("name", ["count", "rows", "level", "literal"])
def test_a_categorical_may_have_any_name(name):
    encoder, rows = fit(Feature("categorical"), ["x", "y"], name)
    assert encoder.design(rows).sum() == 2


@pytest.mark.parametrize("values", [[1, 2, 2], [True, False, False]])
def test_whole_numbers_and_booleans_are_categories_by_their_text(values):
    encoder, rows = fit(Feature("categorical"), values)
    again = Encoder.from_json(encoder.to_json())
    np.testing.assert_array_equal(again.raw(rows)[:, 0], [1, 0, 0])


def test_what_is_not_finite_is_missing():
    values = [1.0, 2.0, None, float("nan"), float("inf"), float("-inf"), 3.0]
    encoder, rows = fit(Feature("numeric"), values)
    gone = np.array([False, False, True, True, True, True, False])
    np.testing.assert_array_equal(np.isnan(encoder.raw(rows)[:, 0]), gone)
    design = encoder.design(rows)
    assert encoder.columns == ["a", "a missing"]
    np.testing.assert_array_equal(design[:, 1], gone)
    np.testing.assert_array_equal(design[gone, 0], 0)
    assert np.isfinite(design).all()


def test_a_value_that_is_missing_for_the_first_time_is_average():
    encoder, _ = fit(Feature("numeric"), [1.0, 2.0, 3.0])
    assert encoder.columns == ["a"]
    np.testing.assert_array_equal(encoder.design(frame(a=[None, 2.0])), [[0.0], [0.0]])


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e-30, -3e9])
def test_a_constant_tells_nothing_and_another_value_moves_by_a_bounded_amount(value):
    encoder, rows = fit(Feature("numeric"), [value] * 7)
    np.testing.assert_allclose(encoder.design(rows), 0, atol=1e-6)
    assert np.abs(encoder.design(frame(a=[1e300, -1e300]))).max() <= CLIP


def test_all_null_columns_of_every_kind_tell_nothing():
    rows = frame(a=[None, None], b=[None, None], c=[None, None])
    kinds = {"a": Feature("numeric"), "b": Feature("categorical"), "c": Feature("date-age")}
    encoder = Encoder.fit(rows, kinds, "opened")
    assert encoder.columns == ["a", "c"]
    np.testing.assert_array_equal(encoder.design(rows), np.zeros((2, 2)))
    assert np.isnan(encoder.raw(rows)).all()


def test_no_rows_can_be_fitted_and_encoded():
    encoder = Encoder.fit(book().head(0), FEATURES, "opened")
    assert encoder.design(book()).shape == (1_500, 3)
    assert encoder.design(book().head(0)).shape == (0, 3)


def test_an_age_is_counted_in_years_at_opening():
    rows = pl.DataFrame({"opened": [date(2022, 1, 1), date(2024, 2, 29)], "a": [date(2012, 1, 1), date(2024, 3, 1)]})
    encoder = Encoder.fit(rows, {"a": Feature("date-age")}, "opened")
    np.testing.assert_allclose(encoder.raw(rows)[:, 0], [3653 / 365.25, -1 / 365.25])


def test_a_long_upper_tail_is_taken_as_logarithm_and_a_negative_value_stays_finite():
    tail = np.exp(np.random.default_rng(1).normal(8, 1.5, 2000))
    encoder, rows = fit(Feature("numeric"), tail)
    assert encoder.numeric["a"].log
    scaled = np.log1p(tail)
    kept = np.abs(encoder.design(rows)[:, 0]) < CLIP
    assert np.corrcoef(encoder.design(rows)[kept, 0], scaled[kept])[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.isfinite(encoder.design(frame(a=[-5.0]))).all()
    assert not fit(Feature("numeric"), -tail)[0].numeric["a"].log


def test_it_reads_back_what_it_wrote_to_the_last_bit():
    rows = book()
    encoder = Encoder.fit(rows, FEATURES, "opened")
    again = Encoder.from_json(encoder.to_json())
    assert again == encoder
    assert again.to_json() == encoder.to_json()
    assert json.loads(encoder.to_json())["monotone"] == [1, 0, 0, 0]
    np.testing.assert_array_equal(again.design(rows), encoder.design(rows))
    np.testing.assert_array_equal(again.raw(rows), encoder.raw(rows))


def test_the_order_of_rows_reaches_no_bit():
    rows = book()
    mixed = rows.sample(fraction=1, shuffle=True, seed=4)
    assert Encoder.fit(mixed, FEATURES, "opened").to_json() == Encoder.fit(rows, FEATURES, "opened").to_json()


def test_a_linear_score_is_the_design_times_weights_and_depends_on_its_row_alone():
    rows = book()
    encoder = Encoder.fit(rows, FEATURES, "opened")
    weights = np.random.default_rng(2).normal(size=len(encoder.columns))
    score = encoder.linear(rows, weights)
    np.testing.assert_allclose(score, encoder.design(rows, np.float64) @ weights, atol=1e-12)
    parts = [encoder.linear(rows[start : start + 7], weights) for start in range(0, rows.height, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), score)


def test_columns_name_the_columns_of_the_design():
    encoder = Encoder.fit(book(), FEATURES, "opened")
    assert encoder.design(book()).shape[1] == len(encoder.columns)
    assert encoder.columns[:3] == ["burden", "income", "income missing"]
    assert sorted(encoder.columns[3:6]) == ["channel=branch", "channel=broker", "channel=web"]
    assert encoder.categorical == [2]


# what labelled rows show


def test_a_row_is_outside_where_one_of_its_values_was_never_seen() -> None:
    frame = pl.DataFrame(
        {
            "amount": [1.0, 5.0, None],
            "income": [10.0, 20.0, 30.0],
            "channel": ["web", "branch", None],
            "home": ["own", "rent", "own"],
            "born": [date(1960, 1, 1), date(1990, 1, 1), date(1980, 1, 1)],
            "opened": [date(2020, 1, 1)] * 3,
        }
    )
    kinds = {"amount": "numeric", "income": "numeric", "channel": "categorical", "home": "categorical"}
    features = {name: Feature(kind) for name, kind in kinds.items()} | {"born": Feature("date-age")}
    seen = KnownRange.fit(frame, features, "opened")
    again = KnownRange.from_json(json.loads(json.dumps(asdict(seen))))
    usual = frame.head(1)
    cases = {
        "as it was": ({}, False),
        "the bounds themselves": ({"amount": 5.0, "income": 30.0}, False),
        "between": ({"amount": 2.5}, False),
        "missing as others were": ({"amount": None, "channel": None}, False),
        "missing as none was": ({"income": None}, True),
        "too large": ({"income": 30.1}, True),
        "too small": ({"amount": 0.9}, True),
        "a new category": ({"channel": "broker"}, True),
        "no category where all had one": ({"home": None}, True),
        "too young": ({"born": date(2001, 1, 1)}, True),
        "infinite is missing": ({"amount": float("inf")}, False),
    }
    for what, (changes, outside) in cases.items():
        row = usual.with_columns(**{name: pl.lit(value, usual.schema[name]) for name, value in changes.items()})
        assert seen.outside(row).tolist() == again.outside(row).tolist() == [outside], what
    assert not seen.outside(frame).any()
