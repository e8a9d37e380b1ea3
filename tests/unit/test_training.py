"""Fitting recipes and judging them walking forward: what teaches, what is judged, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from metarisk import judging, training
from metarisk.adapt import Adapted, SegmentAdaptation, adapt
from metarisk.domain import Adaptation, LearnerChoice, ModelError, Validation
from metarisk.learners.loop import Loop
from metarisk.tasks import LABEL, MATURE, OPPONENT, forward_folds, labelled, opened_within
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, book, fitted, model, silent, support, with_limits

NAMES = ("pooled_logistic", "segment_logistic")
FRAME = book(3_000, seed=5)


@pytest.fixture(scope="module")
def judged() -> pl.DataFrame:
    portfolio = replace(PORTFOLIO, validation=Validation(3, 3))
    return judging.walk_forward(FRAME.lazy(), portfolio, SPEC, NAMES, AS_OF, seed=0, progress=silent)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match=r"portfolio loans.*'nonsense'.*pooled_logistic, segment_logistic"):
        training.recipe_of("nonsense", PORTFOLIO)


def test_options_of_the_portfolio_reach_the_recipe_that_it_pins_and_no_other():
    pinned = replace(PORTFOLIO, learner=LearnerChoice("map_head", {"damping": 0.5}))
    assert training.recipe_of("map_head", pinned).make().damping == 0.5
    assert training.recipe_of("maml", pinned) == training.recipe_of("maml", PORTFOLIO)


@pytest.mark.parametrize("name", ["map_network", "ridge_head", "reptile", "maml"])
def test_settings_of_the_loop_that_a_portfolio_leaves_out_are_the_recipe_s(name):
    pinned = replace(PORTFOLIO, learner=LearnerChoice(name, {"loop": {"steps": 7, "device": "cpu"}}))
    own = training.recipe_of(name, PORTFOLIO).make()
    assert training.recipe_of(name, pinned).make() == replace(own, loop=replace(own.loop, steps=7, device="cpu"))
    # that this says something: none of them leaves the loop's defaults alone
    assert own.loop.steps != 7
    assert own.loop != replace(Loop(), steps=own.loop.steps)


def test_a_loop_that_is_no_table_is_refused():
    pinned = replace(PORTFOLIO, learner=LearnerChoice("maml", {"loop": 7}))
    with pytest.raises(ModelError, match=r"learner maml refuses its options.*\[learner.options\]"):
        training.recipe_of("maml", pinned).make()


def test_teaching_rows_are_the_newest_labelled_ones_sorted_by_entity():
    rows = training.teaching_rows(FRAME.lazy(), with_limits(max_training_rows=100), SPEC, AS_OF)
    known = labelled(FRAME.lazy(), PORTFOLIO, SPEC, AS_OF).collect()
    assert rows["loan"].is_sorted()
    young, rows = rows.filter(~pl.col(MATURE)), rows.filter(MATURE)
    assert (rows.height, young.height) == (100, 25)
    others = known.join(rows, on="loan", how="anti")
    assert others["opened"].max() <= rows["opened"].min()


def test_a_base_that_several_recipes_need_is_fitted_once_and_in_folds_only_where_one_adapts_to_it():
    bases = training.fit_bases(["pooled_lightgbm", "map_head", "pooled_logistic"], support(), PORTFOLIO, SPEC)
    assert {kind: len(base.parts) for kind, base in bases.items()} == {
        "lightgbm": 5,
        "logistic": 0,
        "logistic_segments": 5,
    }


def test_training_twice_gives_the_same_bits_and_row_order_in_the_source_changes_none():
    mixed = book().sample(fraction=1, shuffle=True, seed=3)
    assert fitted("map_head", mixed).to_files() == model().to_files()


def test_the_segments_of_a_model_are_those_that_taught_it():
    keys = support().select("region", "product").unique().sort("region", "product").rows()
    assert model().segments == tuple(keys)


def test_judged_rows_are_exactly_the_mature_ones_of_the_folds(judged):
    portfolio = replace(PORTFOLIO, validation=Validation(3, 3))
    for fold in forward_folds(portfolio, AS_OF):
        window = FRAME.lazy().filter(opened_within(PORTFOLIO, fold))
        expected = labelled(window, PORTFOLIO, SPEC, AS_OF).collect().sort("loan")
        found = judged.filter(fold=str(fold.cut))
        assert found.select("loan", LABEL).equals(expected.select("loan", LABEL))
    assert judged["fold"].n_unique() == 3
    assert judged["loan"].is_unique().all()


def test_a_judged_score_is_that_of_a_model_of_its_cut(judged):
    fold = forward_folds(replace(PORTFOLIO, validation=Validation(3, 3)), AS_OF)[1]
    cut_model = fitted("segment_logistic", FRAME, as_of=fold.cut)
    rows = FRAME.filter(opened_within(PORTFOLIO, fold)).sort("loan")
    teach = training.teaching_rows(FRAME.lazy(), PORTFOLIO, SPEC, fold.cut)
    score, _ = adapt(cut_model, "", teach, PORTFOLIO, SPEC).score(rows, PORTFOLIO)
    assert judged.filter(fold=str(fold.cut))["segment_logistic"].to_list() == score.tolist()


def test_support_counts_are_those_at_the_cut(judged):
    cut = judged["fold"].max()
    teach = labelled(FRAME.lazy(), PORTFOLIO, SPEC, date.fromisoformat(cut)).collect()
    for region, product in (("north", "card"), ("west", "home")):
        rows = teach.filter(region=region, product=product)
        found = judged.filter(fold=cut, region=region, product=product)
        assert set(found["support_rows"]) <= {rows.height}
        assert set(found["support_events"]) <= {rows[LABEL].sum()}
    assert judged["support_rows"].null_count() == 0


def test_of_a_fold_too_large_to_hold_every_kth_row_is_judged(judged, monkeypatch):
    portfolio = replace(PORTFOLIO, validation=Validation(3, 3))
    largest = judged["fold"].value_counts()["count"].max()
    monkeypatch.setattr(judging, "MOST_JUDGED", largest // 2)
    few = judging.walk_forward(FRAME.lazy(), portfolio, SPEC, NAMES, AS_OF, seed=0, progress=silent)
    for (fold,), rows in judged.group_by("fold"):
        every = -(-rows.height // (largest // 2))
        assert every in (2, 3)
        held = FRAME.join(rows, on="loan", how="semi", maintain_order="left").gather_every(every)
        expected = rows.join(held, on="loan", how="semi", maintain_order="left").drop(OPPONENT)
        assert few.filter(fold=fold).drop(OPPONENT).equals(expected)


def test_a_segment_without_support_has_none():
    young = FRAME.with_columns(
        pl.when(pl.col("opened") > date(2021, 9, 1)).then(pl.lit("new")).otherwise("region").alias("region")
    )
    portfolio = replace(PORTFOLIO, validation=Validation(1, 3))
    rows = judging.walk_forward(young.lazy(), portfolio, SPEC, ["pooled_logistic"], AS_OF, seed=0, progress=silent)
    assert set(rows.filter(region="new")["support_rows"]) == {0}
    assert np.isfinite(rows["pooled_logistic"].to_numpy()).all()


def test_a_history_too_short_to_judge_gives_no_rows_and_says_how_far_it_came():
    seen = []
    early = FRAME.filter(pl.col("opened") > date(2022, 9, 1))
    rows = judging.walk_forward(
        early.lazy(), PORTFOLIO, SPEC, NAMES, AS_OF, seed=0, progress=lambda *news: seen.append(news)
    )
    assert rows.is_empty()
    assert seen[-1][0] == seen[-1][1]


def test_segments_are_like_those_whose_effects_are_near_in_units_of_their_spread():
    effects = {"a": 0.0, "stranger": 1.5, "b": 1.0, "c": 3.0, "d": 7.0, "e": 15.0}
    keys = tuple((name,) for name in effects)

    def place(keys, arrays, statuses):
        segments = {
            key: SegmentAdaptation(key, status, "", 10 + number, 1, "", "")
            for number, (key, status) in enumerate(zip(keys, statuses, strict=True))
        }
        return training.likeness(Adapted(model(), Adaptation(keys, arrays), segments))

    statuses = ["fallback" if key == ("stranger",) else "adapted" for key in keys]
    places = place(keys, {"effects": np.array([*effects.values()])[:, None]}, statuses)
    assert {place.segment[0]: "".join(key[0] for key in place.nearest) for place in places} == {
        "a": "bcd", "b": "acd", "c": "bad", "d": "cba", "e": "dcb",
    }  # fmt: skip
    assert [place.support_rows for place in places] == [10, 12, 13, 14, 15]
    # mean 5.2 and spread 5.4553 of the five: on a line, they keep their order and distances
    np.testing.assert_allclose([place.x for place in places], (np.array([0, 1, 3, 7, 15]) - 5.2) / 5.4553, rtol=1e-4)
    np.testing.assert_allclose([place.y for place in places], 0, atol=1e-6)
    assert place(keys[:3], {"effects": np.arange(3.0)[:, None]}, ["adapted", "fallback", "adapted"]) == []
    assert place(keys, {}, ["adapted"] * 6) == []


def test_of_many_segments_those_of_most_labels_are_compared(monkeypatch):
    monkeypatch.setattr(training, "MAPPED", 4)
    keys = tuple((f"s{number}",) for number in range(7))
    segments = {
        key: SegmentAdaptation(key, "adapted", "", rows, 1, "", "")
        for key, rows in zip(keys, (5, 9, 1, 7, 7, 2, 8), strict=True)
    }
    adapted = Adapted(model(), Adaptation(keys, {"effects": np.arange(7.0)[:, None]}), segments)
    assert [place.segment[0] for place in training.likeness(adapted)] == ["s1", "s3", "s4", "s6"]


@pytest.mark.parametrize(("opened_from", "warned"), [(date(2020, 1, 1), 0), (date(2021, 11, 1), 1)])
def test_training_without_validation_is_told(opened_from, warned):
    portfolio = replace(PORTFOLIO, learner=LearnerChoice("reptile", {"loop": {"steps": 1}}))
    teach = training.teaching_rows(FRAME.lazy(), portfolio, SPEC, AS_OF).filter(pl.col("opened") >= opened_from)
    bases, told = training.fit_bases(["reptile"], teach, portfolio, SPEC), []
    training.fit("reptile", teach, bases, portfolio, SPEC, seed=0, progress=silent, warn=told.append)
    assert len(told) == warned
    assert all("reptile is trained without validation" in message for message in told)


@pytest.mark.parametrize("events", [0, 9])
def test_a_history_that_teaches_nothing_is_refused_with_place_and_remedy(events):
    labels = pl.Series(LABEL, [1.0] * events + [0.0] * (100 - events))
    teach = support().head(100).with_columns(labels)
    with pytest.raises(ModelError, match=rf"loans, column event, as of 2023-03-15.*{events} events.*Remedy"):
        training.require_labels(teach, PORTFOLIO, SPEC, AS_OF)
    training.require_labels(
        support().head(100).with_columns(pl.Series(LABEL, [1.0] * 10 + [0.0] * 90)), PORTFOLIO, SPEC, AS_OF
    )
