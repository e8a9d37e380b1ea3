"""Reasons: they sum to the score, are exact where they can be, and tell only what may be told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarisk import calibration, reasons
from metarisk.adapt import adapt
from metarisk.bases import BASES, CrossFitted
from metarisk.bases.decayed import DecayedBase
from metarisk.calibration import Calibration
from metarisk.domain import Feature, Reasons, Scorecard, segment_name
from metarisk.features import Encoder
from metarisk.reasons import LEVEL, MOST, SEGMENT, Explanation, explain
from metarisk.scoring import mean_score
from metarisk.tasks import LABEL, segment_keys
from tests.unit.loan_examples import PORTFOLIO, SPEC, adapted, at_risk, book, fitted, support, to_score

OF_LOANS = [kind for kind, base in BASES.items() if not base.only and base.model is not DecayedBase]
LEARNERS = ["map_head", "blend", "segment_lightgbm", "segment_logistic", "maml", "hazard", "hazard_head"]
MOON = pl.when(pl.col("loan").str.ends_with("7")).then(pl.lit("moon")).otherwise("region").alias("region")
LEVELS = Calibration(0.1, {"south|card": -0.25})


@pytest.mark.parametrize(
    "kind", [kind for kind, base in BASES.items() if not base.only and base.model is not DecayedBase]
)
def test_what_the_features_of_a_base_add_sums_to_its_score_from_one_constant(kind):
    teach = at_risk() if BASES[kind].hazard else support()
    base = CrossFitted.fit(kind, teach, teach[LABEL].to_numpy(), PORTFOLIO, folds=False).full
    parts = base.contributions(book())
    assert parts.shape == (book().height, len(base.features()) + 1)
    np.testing.assert_allclose(parts.sum(axis=1), base.predict(book()), atol=1e-12)
    # what is left of the score is the same for every row, so nothing was swept under the constant
    assert np.ptp(parts[:, -1]) < 1e-9
    assert base.contributions(book().head(0)).shape == (0, len(base.features()) + 1)


def test_a_linear_base_is_explained_against_its_training_mean():
    teach = support()
    base = CrossFitted.fit("logistic", teach, teach[LABEL].to_numpy(), PORTFOLIO, folds=False).full
    design = base.encoder.design(teach, np.float64)
    centred = (design - design.mean(axis=0)) * base.weights
    owners = [name.split("=")[0].removesuffix(" missing") for name in base.encoder.columns]
    by_feature = np.array([centred[:, [o == name for o in owners]].sum(axis=1) for name in base.features()]).T
    np.testing.assert_allclose(base.contributions(teach)[:, :-1], by_feature, atol=1e-10)
    # so that over the training rows every feature adds nothing on average
    np.testing.assert_allclose(base.contributions(teach)[:, :-1].mean(axis=0), 0, atol=1e-10)


def test_the_means_of_an_encoder_do_not_depend_on_the_order_of_rows():
    one = Encoder.fit(book(), PORTFOLIO.features, "opened")
    other = Encoder.fit(book().sample(fraction=1, shuffle=True, seed=4), PORTFOLIO.features, "opened")
    assert one.means == other.means
    np.testing.assert_allclose(one.means, one.design(book(), np.float64).mean(axis=0), atol=1e-12)
    assert Encoder.from_json(one.to_json()) == one


@pytest.mark.parametrize("recipe", LEARNERS)
@pytest.mark.parametrize("level", [None, LEVELS])
def test_contributions_sum_to_the_score_and_in_points(recipe, level):
    rows = to_score().with_columns(MOON)
    night = adapted(recipe)
    found = explain(rows, night, PORTFOLIO, level)
    assert found.names == ("burden", "income", "channel", "born", SEGMENT, LEVEL)
    np.testing.assert_allclose(found.start + found.parts.sum(axis=1), found.link, atol=1e-9)
    shift = np.zeros(rows.height)
    if level:
        keys, codes = segment_keys(rows, PORTFOLIO)
        shift = np.array([level.shift(segment_name(key)) for key in keys])[codes]
    np.testing.assert_allclose(found.link, night.score(rows, PORTFOLIO)[0] + shift, atol=1e-9)
    np.testing.assert_allclose(found.parts[:, -1], shift, atol=0)
    if recipe != "maml":
        # a network reads the inputs beside the base, so its rows start from different places
        assert np.ptp(found.start) < 1e-9
    points, start = found.in_points(night.model.likelihood, PORTFOLIO.scorecard)
    expected = calibration.points(night.model.logit(found.link), PORTFOLIO.scorecard)
    np.testing.assert_allclose(start + points.sum(axis=1), expected, atol=1e-9)


@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=1, max_size=6),
    st.floats(-6, 1),
    st.sampled_from(["bernoulli", "cumulative_hazard"]),
)
def test_points_sum_under_every_link(parts, start, likelihood):
    parts = np.array(parts)
    start = np.full(len(parts), start)
    one = Explanation(("a", "b", "c"), parts, start, start + parts.sum(axis=1))
    card = Scorecard(pdo=40)
    points, at = one.in_points(likelihood, card)
    expected = calibration.points(calibration.log_odds(one.link, likelihood), card)
    np.testing.assert_allclose(at + points.sum(axis=1), expected, atol=1e-6)
    # what raises the risk costs points
    assert (np.sign(points) == -np.sign(parts)).all()


@pytest.mark.parametrize("recipe", ["map_head", "hazard_head"])
def test_the_head_is_split_exactly(recipe):
    """Affine in the base: features get the slope, the segment what its parents and its cell add."""
    rows = to_score()
    night = adapted(recipe)
    found = explain(rows, night, PORTFOLIO)
    arrays, keys = night.adaptation.arrays, {key: i for i, key in enumerate(night.adaptation.keys)}
    damping = float(night.model.state["damping"])
    owner = [keys[key] for key in rows.select("region", "product").iter_rows()]
    effects = damping * arrays["effects"][owner].sum(axis=1)
    features, shares = night.model.contributions(rows)
    slope = arrays["slope"][owner]
    own = [features.index("region"), features.index("product")]
    expected = effects + slope * shares[:, own].sum(axis=1)
    np.testing.assert_allclose(found.parts[:, found.names.index(SEGMENT)], expected, atol=1e-9)
    np.testing.assert_allclose(found.parts[:, 0], slope * shares[:, features.index("burden")], atol=1e-9)


def test_a_segment_that_nobody_knows_is_no_reason_of_a_base_without_segments():
    portfolio = replace(PORTFOLIO, candidates=())
    night = adapted("blend")
    rows = to_score().with_columns(pl.lit("moon").alias("region"), pl.lit("cheese").alias("product"))
    pooled = explain(rows, adapted("pooled_lightgbm"), portfolio)
    assert (pooled.parts[:, pooled.names.index(SEGMENT)] == 0).all()
    # unseen levels of a linear base are told apart from the mean of the seen ones
    assert (explain(rows, night, portfolio).parts[:, pooled.names.index(SEGMENT)] != 0).any()


@pytest.mark.parametrize("recipe", ["map_head", "segment_lightgbm"])
def test_reasons_are_at_most_four_the_heaviest_first_and_all_adverse(recipe):
    rows = to_score()
    told = reasons.reasons(rows, adapted(recipe), PORTFOLIO, LEVELS)
    assert max(map(len, told)) == MOST
    for one in told:
        points = [reason["points"] for reason in one]
        assert points == sorted(points)
        assert all(value <= 0 for value in points)
        assert len({reason["code"] for reason in one}) == len(one)
        assert LEVEL not in {reason["code"] for reason in one}
    assert any(SEGMENT in {reason["code"] for reason in one} for one in told)


def test_a_segment_that_may_not_be_told_still_counts():
    rows = to_score()
    silent = replace(PORTFOLIO, reasons=Reasons(segment=False))
    assert all(reason["code"] != SEGMENT for one in reasons.reasons(rows, adapted(), silent) for reason in one)
    np.testing.assert_array_equal(explain(rows, adapted(), silent).parts, explain(rows, adapted(), PORTFOLIO).parts)


def test_texts_come_from_the_portfolio_and_are_json():
    described = dict(PORTFOLIO.features) | {"burden": Feature("numeric", "share of income « owed »", monotone=1)}
    rows = to_score().with_columns(burden=pl.lit(4.0))
    (one, *_) = reasons.reasons(rows, adapted(), replace(PORTFOLIO, features=described))
    text = {reason["code"]: reason["text"] for reason in one}
    assert text["burden"] == "share of income « owed »"
    assert json.loads(reasons.as_json(one)) == one
    plain = {
        reason["code"]: reason["text"] for found in reasons.reasons(rows, adapted(), PORTFOLIO) for reason in found
    }
    assert plain["income"] == "income"
    assert plain[SEGMENT].startswith("what is known of others in ")


def test_reasons_depend_on_their_row_alone():
    rows = to_score().with_columns(MOON)
    whole = reasons.reasons(rows, adapted(), PORTFOLIO)
    parts = [one for i in range(0, rows.height, 13) for one in reasons.reasons(rows[i : i + 13], adapted(), PORTFOLIO)]
    assert parts == whole


def test_a_model_rebuilt_on_the_same_data_changes_no_reason():
    rows = to_score()
    mixed = book().sample(fraction=1, shuffle=True, seed=3)
    again = adapt(fitted("map_head", mixed), "model", support(mixed), PORTFOLIO, SPEC)
    before, after = (reasons.reasons(rows, night, PORTFOLIO) for night in (adapted(), again))
    assert reasons.changed(before, after) == 0
    assert before == after


def test_the_share_of_changed_first_reasons_is_counted():
    a, b = [{"code": "a"}], [{"code": "b"}, {"code": "a"}]
    assert reasons.changed([a, a, [], b], [a, b, [], []]) == 0.5
    assert reasons.changed([], []) == 0.0


def test_the_curve_of_a_hazard_rises_to_the_score_and_others_have_none():
    night = adapted("hazard_head")
    link = night.score(to_score(), PORTFOLIO)[0]
    for value, score in zip(link[:20], mean_score(night, link)[:20], strict=True):
        curve = night.model.curve(float(value))
        assert len(curve) == PORTFOLIO.target.periods
        assert (np.diff(curve) >= 0).all()
        assert curve[-1] == pytest.approx(score, abs=1e-12)
    assert adapted("map_head").model.curve(0.0).size == 0


def test_the_link_of_an_explanation_is_the_published_score():
    rows = to_score()
    found = explain(rows, adapted(), PORTFOLIO)
    np.testing.assert_allclose(
        mean_score(adapted(), found.link), mean_score(adapted(), adapted().score(rows, PORTFOLIO)[0]), rtol=1e-12
    )
