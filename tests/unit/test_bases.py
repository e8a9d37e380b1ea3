"""Base scores: cross-fitting that never meets its own label, texts that read back to the last bit, monotone trees."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import lightgbm
import numpy as np
import polars as pl
import pytest
from scipy import optimize, special, stats

from metarisk import bases
from metarisk.bases import (
    BASES,
    FOLDS,
    INSTALLED,
    LIMIT,
    CrossFitted,
    EncodedBase,
    HazardBase,
    LinearBase,
    MixedBase,
    OwnBase,
    RateBase,
    TreeBase,
    blend,
    breslow,
    entity_fold,
    tree_threads,
)
from metarisk.bases.decayed import DecayedBase
from metarisk.bases.fitted import Labelled
from metarisk.domain import PERIODS, Feature
from metarisk.features import Encoder
from metarisk.tasks import LABEL
from tests.unit.loan_examples import PORTFOLIO, at_risk, book, support

FEATURES = PORTFOLIO.features
KINDS = [
    kind
    for kind, base in BASES.items()
    if (INSTALLED or base.model is not MixedBase) and not (base.log or base.histories or base.model is DecayedBase)
]


@pytest.fixture(scope="module")
def teach() -> pl.DataFrame:
    return support()


@pytest.fixture(scope="module")
def fitted(teach) -> dict[str, CrossFitted]:
    return {kind: CrossFitted.fit(kind, teach, teach[LABEL].to_numpy(), PORTFOLIO) for kind in KINDS}


def test_folds_are_pinned_for_ever_and_come_from_the_entity_alone():
    # CRC-32 of "123456789" is 0xCBF43926, as every table of check values says
    frame = pl.DataFrame({"loan": ["123456789", "L00001", "L00002", "Zürich", "", None, "42"]})
    assert entity_fold(frame, "loan").tolist() == [0xCBF43926 % 5, 1, 0, 3, 0, 1, 3]
    assert entity_fold(pl.DataFrame({"loan": [42]}), "loan").tolist() == [3]
    r = np.random.default_rng(0)
    names = ["".join(r.choice(list("aZ9|ß€🂡\0 "), r.integers(0, 40))) for _ in range(300)]
    assert entity_fold(pl.DataFrame({"loan": names})[3:], "loan").tolist() == [crc32(n.encode()) % 5 for n in names[3:]]
    assert entity_fold(pl.DataFrame({"loan": []}, schema={"loan": pl.String}), "loan").tolist() == []
    shares = np.bincount(entity_fold(book(), "loan"), minlength=FOLDS) / book().height
    assert (np.abs(shares - 1 / FOLDS) < 0.05).all()


def test_threads_change_no_bit_of_a_prediction_by_trees(fitted):
    rows, base = pl.concat([book()] * 3), fitted["lightgbm_segments"].full
    found = []
    for count in (1, 2, 3):
        with tree_threads(count):
            found.append((base.predict(rows), base.contributions(rows[:100])))
    assert all((one == found[0][0]).all() and (parts == found[0][1]).all() for one, parts in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_never_meets_a_fit_that_saw_its_entity(kind, teach, fitted):
    loan = teach.filter(pl.col(LABEL) == 1)["loan"][0]
    own = pl.col("loan") == loan
    changed = teach.with_columns(
        pl.when(own).then(1 - pl.col(LABEL)).otherwise(LABEL).alias(LABEL),
        pl.when(own).then(pl.col("burden") + 3).otherwise("burden").alias("burden"),
    )
    # the changed row teaches, the row as it was is scored
    again = CrossFitted.fit(kind, changed, changed[LABEL].to_numpy(), PORTFOLIO)
    row = teach.filter(own)
    assert again.unseen(row)[0][0] == fitted[kind].unseen(row)[0][0]
    assert again.full.predict(row)[0] != fitted[kind].full.predict(row)[0]


def test_unseen_scores_are_the_parts_put_together(teach, fitted):
    base, folds = fitted["logistic"], entity_fold(teach, "loan")
    by_hand = [base.parts[fold].predict(teach[i])[0] for i, fold in enumerate(folds)]
    assert base.unseen(teach)[0].tolist() == by_hand


def test_logistic_regression_is_the_penalised_optimum(teach):
    y = teach[LABEL].to_numpy()
    base = LinearBase.fit(Labelled(teach, y, FEATURES, PORTFOLIO.columns))
    design = base.encoder.design(teach, np.float64)

    def objective(weights):
        eta = design @ weights[:-1] + weights[-1]
        return np.sum(np.logaddexp(0, eta) - y * eta) + weights[:-1] @ weights[:-1] / (2 * 0.05)

    best = optimize.minimize(objective, np.zeros(design.shape[1] + 1), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose([*base.weights, base.intercept], best.x, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_read_back_to_the_same_bits(kind, teach, fitted):
    again = CrossFitted.from_texts(kind, "loan", fitted[kind].to_texts())
    frame = book()
    np.testing.assert_array_equal(again.full.predict(frame), fitted[kind].full.predict(frame))
    np.testing.assert_array_equal(again.unseen(teach), fitted[kind].unseen(teach))
    assert again.to_texts() == fitted[kind].to_texts()


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_on_its_row_alone(kind, fitted):
    frame, full = book(), fitted[kind].full
    score = full.predict(frame)
    parts = [full.predict(frame[start : start + 11]) for start in range(0, frame.height, 11)]
    np.testing.assert_array_equal(np.concatenate(parts), score)


def test_trees_are_the_same_on_any_number_of_threads(teach, monkeypatch):
    y = teach[LABEL].to_numpy()
    one = CrossFitted.fit("lightgbm", teach, y, PORTFOLIO)
    monkeypatch.setattr(bases.crossfit.os, "cpu_count", lambda: 1)
    assert CrossFitted.fit("lightgbm", teach, y, PORTFOLIO).to_texts() == one.to_texts()
    parameters = bases.trees.tree_parameters(y, one.full.encoder.monotone, fine=True)
    raw = one.full.encoder.raw(teach)
    for threads in (1, 3):
        data = lightgbm.Dataset(raw, y, categorical_feature=[2])
        booster = lightgbm.train(parameters | {"num_threads": threads}, data)
        np.testing.assert_array_equal(booster.predict(raw, raw_score=True), one.full.predict(teach))


def test_monotone_features_never_turn_a_tree_score_round(fitted):
    rows = book(200)
    grid = np.linspace(-4, 4, 41)
    scores = np.array([fitted["lightgbm"].full.predict(rows.with_columns(burden=pl.lit(v))) for v in grid])
    assert (np.diff(scores, axis=0) >= 0).all()
    assert (np.diff(scores, axis=0) > 0).any()


def test_a_falling_constraint_holds_against_the_data(teach):
    against = dict(FEATURES) | {"burden": replace(FEATURES["burden"], monotone=-1)}
    base = TreeBase.fit(Labelled(teach, teach[LABEL].to_numpy(), against, PORTFOLIO.columns))
    scores = [base.predict(book(50).with_columns(burden=pl.lit(v))) for v in (-3.0, 0.0, 3.0)]
    assert (np.diff(scores, axis=0) <= 0).all()


def test_a_linear_weight_against_its_sign_is_left_out_and_the_rest_is_fitted_again(teach):
    y = teach[LABEL].to_numpy()
    against = dict(FEATURES) | {"burden": replace(FEATURES["burden"], monotone=-1)}
    without = {name: feature for name, feature in FEATURES.items() if name != "burden"}
    found, rest = (
        LinearBase.fit(Labelled(teach, y, against, PORTFOLIO.columns)),
        LinearBase.fit(Labelled(teach, y, without, PORTFOLIO.columns)),
    )
    assert found.weights[0] == 0
    np.testing.assert_allclose(found.weights[1:], rest.weights, atol=1e-9)
    np.testing.assert_allclose(found.predict(book()), rest.predict(book()), atol=1e-9)
    # a direction that the data share changes nothing
    free = dict(FEATURES) | {"burden": replace(FEATURES["burden"], monotone=0)}
    np.testing.assert_array_equal(
        LinearBase.fit(Labelled(teach, y, free, PORTFOLIO.columns)).weights,
        LinearBase.fit(Labelled(teach, y, FEATURES, PORTFOLIO.columns)).weights,
    )


def test_a_design_of_contradicted_columns_alone_is_the_constant(teach):
    y = teach[LABEL].to_numpy()
    base = LinearBase.fit(Labelled(teach, y, {"burden": replace(FEATURES["burden"], monotone=-1)}, PORTFOLIO.columns))
    np.testing.assert_allclose(special.expit(base.predict(book())), y.mean(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_segment_columns_are_read_by_the_kinds_that_say_so(kind, fitted):
    frame = book(100)
    moved = frame.with_columns(region=pl.lit("north"), product=pl.lit("home"))
    differs = (fitted[kind].full.predict(moved) != fitted[kind].full.predict(frame)).any()
    assert differs == (BASES[kind].segments or BASES[kind].model in (EncodedBase, OwnBase, MixedBase, RateBase))


@pytest.mark.parametrize("fit", [LinearBase.fit, TreeBase.fit, EncodedBase.fit, OwnBase.fit])
@pytest.mark.parametrize(("y", "events"), [(np.zeros(9), 0.5), (np.ones(9), 9.5)])
def test_one_class_gives_the_constant_of_the_smoothed_rate(fit, y, events):
    base = fit(Labelled(book(9), y, FEATURES, PORTFOLIO.columns))
    np.testing.assert_allclose(special.expit(base.predict(book(20))), events / 10)
    again = type(base).from_text(base.to_text())
    np.testing.assert_array_equal(again.predict(book(20)), base.predict(book(20)))


def test_few_rows_whose_folds_are_empty_or_of_one_class_still_fit():
    frame = book(4).with_columns(pl.lit(3).alias(PERIODS))
    for kind in KINDS:
        base = CrossFitted.fit(kind, frame, np.array([0.0, 1.0, 0.0, 0.0]), PORTFOLIO)
        assert np.isfinite(base.unseen(frame)).all()
        assert np.isfinite(base.full.predict(frame)).all()


def test_scores_are_cut_at_the_limit():
    encoder = Encoder.fit(book(), {"burden": Feature("numeric")}, "opened")
    score = LinearBase(encoder, np.array([100.0]), 0.0).predict(book())
    assert score.max() == LIMIT
    assert score.min() == -LIMIT


def test_a_blend_is_the_mean_of_logits_and_zero_without_bases():
    np.testing.assert_array_equal(blend([np.array([0.0, 1.0]), np.array([2.0, 5.0])], 2), [1.0, 3.0])
    np.testing.assert_array_equal(blend([], 3), np.zeros(3))
    np.testing.assert_array_equal(blend([np.array([0.0, 1.0]), np.array([2.0, 5.0])], 2, (0.75, 0.25)), [0.5, 2.0])


def test_trees_have_few_leaves_while_events_are_few_and_half_the_rounds_once_they_are_many():
    few = bases.trees.tree_parameters(np.repeat([0.0, 1.0], [5_000, 150]), [0], fine=False)
    many = bases.trees.tree_parameters(np.repeat([0.0, 1.0], [90_000, 9_000]), [0, 1], fine=False)
    assert (few["num_leaves"], few["num_iterations"], few["learning_rate"]) == (4, 150, 0.03)
    assert (many["num_leaves"], many["num_iterations"], many["learning_rate"]) == (16, 200, 0.06)
    assert "monotone_constraints" not in few
    assert many["monotone_constraints"] == [0, 1]


# what a risk team would use


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_sum_to_the_score(kind, fitted):
    full, rows = fitted[kind].full, book(120, seed=9)
    parts = full.contributions(rows)
    assert parts.shape == (120, len(full.features()) + 1)
    np.testing.assert_allclose(parts.sum(axis=1), full.predict(rows), atol=1e-9)


def test_a_target_encoding_is_the_smoothed_rate_of_the_other_folds(teach, monkeypatch):
    seen = {}
    plain = TreeBase.fit.__func__

    def spied(cls, labelled):
        seen["frame"] = labelled.frame
        return plain(cls, labelled)

    monkeypatch.setattr(TreeBase, "fit", classmethod(spied))
    y = teach[LABEL].to_numpy()
    base = EncodedBase.fit(Labelled(teach, y, FEATURES, PORTFOLIO.columns))
    folds, rate = entity_fold(teach, "loan"), (y.sum() + 0.5) / len(y)
    for row in (0, 7, 200):
        same = (teach["region"] == teach["region"][row]).to_numpy()
        others = same & (folds != folds[row])
        assert seen["frame"]["region"][row] == pytest.approx(
            np.log((y[others].sum() + 10) / (rate * others.sum() + 10))
        )
        of_all = np.log((y[same].sum() + 10) / (rate * same.sum() + 10))
        assert base.rates["region"][teach["region"][row]] == pytest.approx(of_all)
    strange = book(5).with_columns(region=pl.lit("atlantis"), product=pl.lit(None, pl.String))
    assert np.isfinite(base.predict(strange)).all()


def test_a_row_is_scored_by_the_narrowest_regression_that_had_events_enough(teach):
    y = teach[LABEL].to_numpy()
    base = OwnBase.fit(Labelled(teach, y, FEATURES, PORTFOLIO.columns))

    def alone(rows: pl.DataFrame) -> LinearBase:
        return LinearBase.fit(Labelled(rows, rows[LABEL].to_numpy(), FEATURES, PORTFOLIO.columns))

    def enough(rows: pl.DataFrame) -> bool:
        return min(rows[LABEL].sum(), rows.height - rows[LABEL].sum()) >= 30

    taken = set()
    for region, product in book().select("region", "product").unique().iter_rows():
        keys = {"region": region, "product": product}
        chain = [keys, {"region": region}, {"product": product}, {}]
        key, own = next((key, rows) for key in chain if enough(rows := teach.filter(**key)) or not key)
        taken.add(len(key))
        rows = book().filter(**keys)
        np.testing.assert_array_equal(base.predict(rows), alone(own).predict(rows))
    assert len(taken) > 1


@pytest.mark.skipif(not INSTALLED, reason="the extra gpboost is not installed")
def test_gpboost_without_its_library_scores_what_its_library_scores(teach):
    import gpboost

    y = teach[LABEL].to_numpy()
    base, made = MixedBase.fit(Labelled(teach, y, FEATURES, PORTFOLIO.columns)), []
    train = gpboost.train

    def spied(*arguments, **options):
        made.append(train(*arguments, **options))
        return made[-1]

    gpboost.train = spied
    try:
        MixedBase.fit(Labelled(teach, y, FEATURES, PORTFOLIO.columns))
    finally:
        gpboost.train = train
    rows = book(50, seed=4)
    groups = np.column_stack(
        [np.searchsorted(sorted(base.effects[name]), rows[name]) for name in ("region", "product")]
    )
    found = made[0].predict(base.trees.encoder.raw(rows), group_data_pred=groups, pred_latent=True)
    np.testing.assert_allclose(base.predict(rows), found["fixed_effect"] + found["random_effect_mean"], atol=1e-6)
    spread = max(base.effects["region"].values()) - min(base.effects["region"].values())
    assert spread > 0.1


# hazards


def lives(rows: int, effect: float, periods: int = 12, seed: int = 5) -> tuple[pl.DataFrame, np.ndarray]:
    """Subjects under proportional hazards in `burden`, followed for a random time, with the event of each."""
    r = np.random.default_rng(seed)
    frame = book(rows).with_columns(pl.Series("burden", r.normal(size=rows)))
    monthly = 0.01 * np.arange(1, periods + 1) / periods * np.exp(effect * frame["burden"].to_numpy()[:, None])
    happens = r.random((rows, periods)) < -np.expm1(-monthly)
    last = np.where(happens.any(1), happens.argmax(1) + 1, periods + 1)
    followed = r.integers(1, periods + 1, rows)
    return frame.with_columns(pl.Series(PERIODS, np.minimum(last, followed))), (last <= followed).astype(float)


def test_the_baseline_is_nelson_and_aalens_where_all_are_alike():
    frame, y = lives(4_000, effect=0.0)
    periods = frame[PERIODS].to_numpy()
    data = stats.CensoredData(uncensored=periods[y == 1], right=periods[y == 0])
    survival = stats.ecdf(data).sf
    # Kaplan and Meier's survival falls by the factor 1 - d / n in a period: the same d / n
    fall = 1 - survival.probabilities / np.append(1.0, survival.probabilities[:-1])
    np.testing.assert_allclose(breslow(periods, y, np.ones(len(y)))[survival.quantiles.astype(int)], fall.cumsum())


@pytest.mark.parametrize("kind", [LinearBase, TreeBase])
def test_a_hazard_finds_the_effect_that_made_its_data_and_its_curve_ends_at_the_rate(kind):
    frame, y = lives(20_000, effect=0.8)
    base = HazardBase.fit(kind, Labelled(frame, y, {"burden": Feature("numeric")}, PORTFOLIO.columns))
    assert (np.diff(base.baseline) >= 0).all()
    fresh, _ = lives(20_000, effect=0.8, seed=6)
    truth = np.log(0.01 * 6.5) + 0.8 * fresh["burden"].to_numpy()
    found = base.predict(fresh)
    assert np.exp(found).mean() == pytest.approx(np.exp(truth).mean(), rel=0.08)
    assert np.polyfit(truth, found, 1)[0] == pytest.approx(1.0, abs=0.15)


def test_expected_events_of_the_linear_hazard_are_those_that_were_seen():
    frame, y = lives(5_000, effect=0.5)
    base = HazardBase.fit(LinearBase, Labelled(frame, y, {"burden": Feature("numeric")}, PORTFOLIO.columns))
    exposed = np.exp(base.predict(frame) + base.share(frame[PERIODS].to_numpy()))
    assert exposed.sum() == pytest.approx(y.sum(), rel=1e-9)


def test_rows_still_at_risk_teach_a_hazard_and_their_share_grows_with_their_age():
    rows = at_risk()
    base = CrossFitted.fit("linear_hazard_segments", rows, rows[LABEL].to_numpy(), PORTFOLIO)
    score, share = base.unseen(rows)
    aged = rows.with_columns(pl.lit(PORTFOLIO.target.periods).alias(PERIODS))
    np.testing.assert_array_equal(base.unseen(aged)[0], score)
    np.testing.assert_array_equal(base.unseen(aged)[1], np.zeros(rows.height))
    assert (share <= 0).all()
    young = rows[PERIODS].to_numpy() < PORTFOLIO.target.periods
    assert share[young].mean() < share[~young].mean()
