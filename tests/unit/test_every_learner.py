"""What every row of LEARNERS owes: bits that do not depend on the order of rows or on batches."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from metarisk.adapt import LEARNERS, one_thread
from metarisk.domain import Array, ConfigError, Episodes, Learner, Packed
from metarisk.learners.loop import Loop
from metarisk.learners.mlp import GradientLearner
from metarisk.learners.packing import first_rows, take

INPUTS = 9
LOOP: dict[str, Any] = {"steps": 4, "meta_batch": 4, "evaluate_every": 2, "device": "cpu", "graph": False}
SMALL: dict[str, Any] = {"hidden": (8,), "support_rows": 16, "query_rows": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
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
    """A learner small enough to be cheap."""
    kind, options = VARIANTS[name]
    usual = OPTIONS.get(kind, {**SMALL, "loop": Loop(**LOOP)})
    return LEARNERS[kind].make(**(usual | options))


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
