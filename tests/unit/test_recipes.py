"""Every recipe can stand in every other's place: trained, adapted, written, read back, and scored from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import special

from metarisk import training
from metarisk.adapt import RECIPES, Adapted, FittedModel, adapt
from metarisk.bases import BASES
from metarisk.bases.decayed import DecayedBase
from metarisk.domain import Episodes, LearnerChoice, ModelError, Packed
from metarisk.tasks import population
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, book, silent


def quick(name: str) -> FittedModel:
    """A recipe trained for a few steps."""
    recipe = RECIPES[name]
    short = {"loop": {"steps": 20}} if "loop" in recipe.options else {}
    portfolio = replace(PORTFOLIO, learner=LearnerChoice(name, short))
    teach = training.teaching_rows(book().lazy(), portfolio, SPEC, AS_OF)
    bases = training.fit_bases([name], teach, portfolio, SPEC)
    return training.fit(name, teach, bases, portfolio, SPEC, seed=0, progress=silent)


def of_loans(name: str) -> bool:
    """Whether all bases of a recipe read what a loan book has, and fit events."""
    return not any(BASES[kind].only or BASES[kind].model is DecayedBase for kind in RECIPES[name].bases)


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].learner != "none" and of_loans(name)])
def test_a_recipe_survives_the_registry_and_scores_every_row(name: str) -> None:
    model = quick(name)
    read = FittedModel.from_files(model.to_files())
    support = training.teaching_rows(book().lazy(), PORTFOLIO, SPEC, AS_OF)
    adapted = adapt(read, "model", support, PORTFOLIO, SPEC)
    again = Adapted.from_files(read, adapted.to_files())
    rows = population(book().lazy(), PORTFOLIO, AS_OF).collect()
    score, variance = adapt(model, "model", support, PORTFOLIO, SPEC).score(rows, PORTFOLIO)
    for other in (adapted, again):
        np.testing.assert_array_equal(other.score(rows, PORTFOLIO)[0], score)
    assert np.isfinite(score).all()
    assert np.ptp(score) > 0.5
    assert variance is None or (variance > 0).all()


def test_an_unknown_option_is_refused_with_its_name() -> None:
    portfolio = replace(PORTFOLIO, learner=LearnerChoice("maml", {"inner_stepps": 3}))
    with pytest.raises(ModelError, match="inner_stepps"):
        training.recipe_of("maml", portfolio).make()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("map_network", {"loop": {"steps": 1}}),
        ("map_head", {"damping": 1.0}),
        ("maml", {"hidden": (), "inner_rate": 1.0, "adapt_steps": 50, "loop": {"steps": 1}}),
    ],
)
@pytest.mark.parametrize("tau", [0.1, 0.9])
def test_the_level_of_a_quantile_is_an_option(name: str, options: dict[str, object], tau: float) -> None:
    """Adapted to many labels of one segment, the score is the quantile that was asked for, but for a weak prior."""
    y = np.random.default_rng(0).normal(size=2_000).astype(np.float32)
    zero = np.zeros_like(y)
    rows = Packed((("one", "a"),), np.array([0, len(y)]), zero[:, None], y, zero + 1, zero)
    choice = LearnerChoice(name, {**options, "likelihood_options": {"tau": tau, "width": 0.05}})
    learner = training.recipe_of(name, replace(PORTFOLIO, learner=choice)).make()
    state = learner.train(Episodes(rows, rows), None, "quantile", seed=0, progress=silent)
    score, _ = learner.predict(state, learner.adapt(state, rows, "quantile"), rows, "quantile")
    assert np.mean(y < score[0]) == pytest.approx(tau, abs=0.02)


def test_classes_weighted_by_configuration_give_probabilities_of_the_event_rate() -> None:
    """Events of 6 % are made to weigh as much as the rest; the probabilities are those of the 6 % all the same."""
    r = np.random.default_rng(0)
    x = r.normal(size=(4_000, 2)).astype(np.float32)
    y = (r.random(4_000) < special.expit(x[:, 0] - 3.2)).astype(np.float32)
    rows = Packed(tuple((str(i),) for i in range(20)), np.arange(21) * 200, x, y, np.ones_like(y), 0 * y)
    options = {"class_weight": "balanced", "hidden": (8,), "fusion": "none", "inner_steps": 1}
    choice = LearnerChoice("maml", {**options, "loop": {"steps": 150, "rate": 1e-2, "meta_batch": 10}})
    learner = training.recipe_of("maml", replace(PORTFOLIO, learner=choice)).make()
    state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=silent)
    assert float(state["class_weight"][0]) == pytest.approx((1 - y.mean()) / y.mean(), rel=1e-5)
    score, _ = learner.predict(state, learner.adapt(state, rows, "bernoulli"), rows, "bernoulli")
    assert special.expit(score).mean() == pytest.approx(float(y.mean()), rel=0.25)
    # uncorrected, half of all rows would be expected to be events
    assert special.expit(score + np.log(state["class_weight"][0])).mean() > 5 * y.mean()


def test_options_of_another_likelihood_are_refused() -> None:
    choice = LearnerChoice("maml", {"likelihood_options": {"size": 2.0}})
    learner = training.recipe_of("maml", replace(PORTFOLIO, learner=choice)).make()
    rows = Packed((("one",),), np.array([0, 1]), *(np.zeros(shape) for shape in ((1, 1), 1, 1, 1)))
    for name, words in (("bernoulli", "expects options among .., got .*size"), ("quantile", "tau.*width.*got.*size")):
        with pytest.raises(ModelError, match=words):
            learner.train(Episodes(rows, rows), None, name, seed=0, progress=silent)


def test_a_segment_without_labels_borrows_where_the_model_says_so() -> None:
    stranger = pl.col("region") == "west"
    support = training.teaching_rows(book().lazy(), PORTFOLIO, SPEC, AS_OF).filter(~stranger)
    rows = population(book().lazy(), PORTFOLIO, AS_OF).collect()
    model = quick("prototypical")
    alone = adapt(replace(model, borrows=False), "model", support, PORTFOLIO, SPEC, population=rows)
    lent = adapt(replace(model, borrows=True), "model", support, PORTFOLIO, SPEC, population=rows)
    new = {key for key in lent.segments if key not in alone.segments}
    assert new
    assert {key[0] for key in new} == {"west"}
    assert {lent.segments[key].status for key in new} == {"fallback"}
    mine = rows["region"].to_numpy() == "west"
    with_neighbours, without = (part.score(rows, PORTFOLIO)[0] for part in (lent, alone))
    np.testing.assert_array_equal(with_neighbours[~mine], without[~mine])
    assert not np.allclose(with_neighbours[mine], without[mine])
    again = Adapted.from_files(replace(model, borrows=True), lent.to_files())
    np.testing.assert_array_equal(again.score(rows, PORTFOLIO)[0], with_neighbours)
