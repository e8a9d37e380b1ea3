"""What every row of LEARNERS owes: bits free of the order of rows, sense in odd segments, and words for what is bad."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from metarisk.adapt import LEARNERS, one_thread
from metarisk.domain import Array, ConfigError, DataError, Episodes, Learner, LikelihoodName, ModelError, Packed
from metarisk.learners.gradient.mlp import GradientLearner
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop
from metarisk.learners.packing import first_rows, take

INPUTS = 9
LOOP: dict[str, Any] = {"steps": 4, "meta_batch": 4, "evaluate_every": 2, "device": "cpu", "graph": False}
SMALL: dict[str, Any] = {"hidden": (8,), "support_rows": 16, "query_rows": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "map_head": {"damping": None},
    "reptile": {**SMALL, "loop": Loop(**LOOP, optimiser="sgd", momentum=0.0, rate=0.1)},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in LEARNERS},
    "map_network of odd width": ("map_network", {"hidden": (9, 7)}),
    "map_network in float64": ("map_network", {"hidden": (), "loop": Loop(**LOOP, precision="float64")}),
    "matching of odd width": ("matching", {"hidden": (9,), "embedding": 7}),
    "matching in context": ("matching", {"context": True, "max_support": 40, "embedding": 5}),
    "siamese contrastive": ("siamese", {"pair_loss": "contrastive", "embedding": 9}),
    "prototypical on a feature": ("prototypical", {"fusion": "feature"}),
}


def made(name: str) -> Learner:
    """A learner small enough to be cheap, by the options that it has."""
    kind, options = VARIANTS[name]
    make = LEARNERS[kind].make
    usual = OPTIONS.get(kind, {**SMALL, "loop": Loop(**LOOP)})
    return make(**{option: usual[option] for option in usual.keys() & signature(make).parameters.keys()} | options)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with one_thread():
        yield


def quiet(done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""


def book(sizes: Sequence[int] | Array, seed: int) -> Packed:
    """Segments with binary labels, a float64 base score and weights that are no whole numbers."""
    r = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(starts[-1])
    x, base = r.normal(size=(n, INPUTS)).astype(np.float32), r.normal(-1, 0.7, n)
    y = (r.random(n) < 1 / (1 + np.exp(-base - x[:, 0]))).astype(float)
    keys = tuple((f"r{i % 2}", f"s{i}") for i in range(len(sizes)))
    return Packed(keys, starts, x, y, r.uniform(0.3, 2, n), base)


def mixed(packed: Packed, seed: int) -> tuple[Packed, Array]:
    """Each segment's rows in another order, and that order."""
    r = np.random.default_rng(seed)
    order = np.concatenate([r.permutation(np.arange(*ends)) for ends in pairwise(packed.starts)])
    return take(packed, order), order


@pytest.mark.parametrize("name", VARIANTS)
def test_neither_the_order_of_rows_nor_the_batch_changes_a_bit(name: str) -> None:
    learner, r = made(name), np.random.default_rng(0)
    tasks, validation = (Episodes(*(book(r.integers(5, 60, 8), seed + part) for part in (0, 1))) for seed in (0, 2))
    state = learner.train(tasks, validation, "bernoulli", seed=1, progress=quiet)
    if not isinstance(learner, GradientLearner):
        one, other = (Episodes(mixed(each.support, 3)[0], mixed(each.query, 4)[0]) for each in (tasks, validation))
        again = learner.train(one, other, "bernoulli", seed=1, progress=quiet)
        assert all(np.array_equal(value, again[part]) for part, value in state.items())

    support, rows = book(r.integers(5, 300, 8), 5), book([*r.integers(5, 400, 7), 4500], 6)
    adaptation, same = (learner.adapt(state, each, "bernoulli") for each in (support, mixed(support, 7)[0]))
    assert all(np.array_equal(value, same.arrays[part]) for part, value in adaptation.arrays.items())

    whole = learner.predict(state, adaptation, rows, "bernoulli")
    shuffled, order = mixed(rows, 8)
    within = np.arange(rows.rows) - rows.starts[rows.index]
    batches = [(shuffled, order)]
    batches += [(first_rows(rows, most), np.flatnonzero(within < most)) for most in (1, 13, 100)]
    batches += [(rows.select([3]), np.flatnonzero(rows.index == 3))]
    for batch, chosen in batches:
        for values, expected in zip(learner.predict(state, adaptation, batch, "bernoulli"), whole, strict=True):
            assert (values is None) == (expected is None)
            if values is not None and expected is not None:
                np.testing.assert_array_equal(values, expected[chosen])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(
            (name, wrong)
            for name in ("map_network", "ridge_head", "prototypical")
            for wrong in ({"fusion": "ofset"}, {"hidden": (0,)}, {"support_rows": 0}, {"query_rows": -1})
        ),
        ("map_network", {"prior": "fulll"}),
        ("map_network", {"prior_scale": -0.3}),
        ("ridge_head", {"ridge": 0.0}),
        ("ridge_head", {"ridge": float("nan")}),
        ("prototypical", {"embedding": 0}),
        ("matching", {"max_support": 1}),
        ("matching", {"reads": 0}),
        ("matching", {"context": "yes"}),
        ("siamese", {"pair_loss": "triplet"}),
        ("siamese", {"margin": 0.0}),
        ("siamese", {"pair_weight": -1.0}),
        ("map_head", {"damping": 1.5}),
        ("map_head", {"slope_variance": -0.1}),
        ("map_head", {"prior_variance": 0.0}),
        ("map_head", {"prior_strength": float("inf")}),
        ("map_head", {"slope_column": -1}),
    ],
)
def test_a_setting_that_would_silently_act_as_another_is_refused(name: str, wrong: dict[str, Any]) -> None:
    [(setting, value)] = wrong.items()
    shown = value[0] if isinstance(value, tuple) else value
    with pytest.raises(ConfigError, match=rf"{setting} must be .*, got {shown}"):
        LEARNERS[name].make(**wrong)


def labels(likelihood: LikelihoodName, n: int, seed: int) -> tuple[Array, float]:
    """Labels in range (N,), and the one that a segment of one class has."""
    r = np.random.default_rng(seed)
    if likelihood in ("bernoulli", "hazard", "cumulative_hazard"):
        return (r.random(n) < 0.3).astype(float), 1.0
    if likelihood in ("poisson", "negative_binomial"):
        return r.poisson(1.0, n).astype(float), 0.0
    return (np.exp(r.normal(size=n)), 0.0) if likelihood == "qlike" else (r.normal(size=n), 2.0)


def odd_book(likelihood: LikelihoodName, seed: int) -> Packed:
    """No rows; one row; one class; constant features; weights of 0; and one like any other."""
    rows = book((0, 1, 20, 20, 20, 8), seed)
    y, only = labels(likelihood, rows.rows, seed)
    for segment, values, value in ((2, y, only), (3, rows.x, 1.0), (4, rows.weight, 0.0)):
        values[rows.index == segment] = value
    return replace(rows, y=y)


TAKES: dict[str, tuple[LikelihoodName, ...]] = {
    **dict.fromkeys(("none", "maml", "fomaml", "anil", "meta_sgd", "maml_plus_plus", "reptile"), tuple(LIKELIHOODS)),
    "map_head": tuple(name for name, each in LIKELIHOODS.items() if each.outputs == 1),
    "map_network": tuple(name for name, each in LIKELIHOODS.items() if each.outputs == 1),
    "ridge_head": ("bernoulli", "gaussian"),
    "prototypical": ("bernoulli",),
    "matching": ("bernoulli",),
    "siamese": ("bernoulli",),
}
"""Likelihoods that learners take; one that is not named here takes those that it does not refuse in these words."""
REFUSED = "expects a likelihood .*, got {}"


@cache
def takes(name: str) -> tuple[LikelihoodName, ...]:
    """Likelihoods that a learner takes, at least one."""
    if name in TAKES:
        return TAKES[name]
    found: list[LikelihoodName] = []
    for likelihood in LIKELIHOODS:
        rows = odd_book(likelihood, 0)
        try:
            made(name).train(Episodes(rows, rows), None, likelihood, seed=0, progress=quiet)
        except ModelError as error:
            if re.search(REFUSED.format(likelihood), str(error)):
                continue
        found.append(likelihood)
    assert found, "it refuses every likelihood"
    return tuple(found)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", LEARNERS)
def test_odd_segments_teach_adapt_and_are_scored_or_are_named(name: str, likelihood: LikelihoodName) -> None:
    learner, support, query = made(name), odd_book(likelihood, 0), odd_book(likelihood, 1)
    if likelihood not in takes(name):
        with pytest.raises(ModelError, match=REFUSED.format(likelihood)):
            learner.train(Episodes(support, query), None, likelihood, seed=0, progress=quiet)
        return
    for chosen in ([*range(6)], [0], [2, 3, 4]):
        tasks = Episodes(support.select(chosen), query.select(chosen))
        try:
            state = learner.train(tasks, tasks, likelihood, seed=0, progress=quiet)
        except ModelError as error:
            assert re.search(r"step \d+: .* task ", str(error))
            continue
        adaptation = learner.adapt(state, query, likelihood)
        eta, variance = learner.predict(state, adaptation, support, likelihood)
        for values in (*state.values(), *adaptation.arrays.values(), eta):
            assert np.isfinite(values).all()
        assert variance is None or (np.isfinite(variance) & (variance >= 0)).all()


def changed(rows: Packed, field: str, row: int, value: float) -> Packed:
    """The rows with one number in place of another."""
    values = getattr(rows, field).copy()
    values[row] = value
    return replace(rows, **{field: values})


BAD: dict[str, tuple[Callable[[Packed], Packed], str]] = {
    "nan": (lambda rows: changed(rows, "base", 3, np.nan), r"expected finite numbers, got base\[3\] = nan in segment"),
    "weight": (lambda rows: changed(rows, "weight", 2, -1.0), r"expected weights >= 0, got weight\[2\] = -1"),
    "type": (lambda rows: replace(rows, y=rows.y.astype(int)), "expected y as float32 or float64, got int64"),
    "length": (lambda rows: replace(rows, base=rows.base[1:]), r"expected base of shape \(69,\), got \(68,\)"),
    "starts": (lambda rows: replace(rows, starts=rows.starts - 1), "expected starts that rise from 0 to 69"),
    "keys": (lambda rows: replace(rows, starts=rows.starts[1:]), r"expected integer starts of shape \(7,\), got"),
    "label": (lambda rows: changed(rows, "y", 4, 0.5), "expects labels 0 or 1, got 0.5 in row 4"),
    "width": (lambda rows: replace(rows, x=rows.x[:, 1:]), "expected 9 features, as in training, got 8"),
    "feature": (lambda rows: changed(rows, "x", 5, np.inf), r"expected finite numbers, got x\[5, 0\] = inf"),
}
"""What is done to the rows, and what is said of it."""


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "none"])
def test_bad_rows_are_refused_wherever_they_come_in(name: str) -> None:
    learner, rows = made(name), odd_book("bernoulli", 0)
    good = Episodes(rows, rows)
    state = learner.train(good, None, "bernoulli", seed=0, progress=quiet)
    adaptation = learner.adapt(state, rows, "bernoulli")
    for kind, (spoil, message) in BAD.items():
        if kind in ("width", "feature") and not LEARNERS[name].reads_inputs:
            continue
        bad = spoil(rows)
        calls: list[Callable[[], object]] = [lambda bad=bad: learner.adapt(state, bad, "bernoulli")]  # type: ignore[misc]
        # rows to score have no labels
        if kind != "label":
            calls.append(lambda bad=bad: learner.predict(state, adaptation, bad, "bernoulli"))  # type: ignore[misc]
        for tasks, validation in (
            (Episodes(rows, bad), None),
            (good, Episodes(bad, rows)),
            (good, Episodes(rows, bad)),
            *(((Episodes(bad, rows), None),) if kind != "width" else ()),
        ):
            calls.append(
                lambda tasks=tasks, validation=validation: learner.train(  # type: ignore[misc]
                    tasks, validation, "bernoulli", seed=0, progress=quiet
                )
            )
        for call in calls:
            with pytest.raises((DataError, ModelError), match=message):
                call()
