"""The ridge head against scikit-learn and finite differences, and what it does at the edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.linear_model import Ridge

from metarisk.domain import Array, Episodes, ModelError, Packed
from metarisk.learners.episodic import head_features, mean_loss
from metarisk.learners.heads.ridge_head import RidgeHead
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop
from metarisk.learners.packing import Block

EXACT = Loop(precision="float64", graph=False, device="cpu", steps=3, rate=1e-2)
SIZES = (30, 0, 3, 1, 90)


def quiet(done: int, total: int, note: str) -> None:
    pass


def book(likelihood: str = "gaussian", sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Packed:
    r = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(starts[-1])
    x, base = r.normal(size=(n, 3)), r.normal(-0.5, 0.8, n)
    eta = base + (x * np.repeat(r.normal(0, 1, (len(sizes), 3)), sizes, 0)).sum(1)
    y = eta + 0.3 * r.normal(size=n) if likelihood == "gaussian" else (r.random(n) < special.expit(eta)).astype(float)
    return Packed(tuple((f"s{i}",) for i in range(len(sizes))), starts, x, y, r.uniform(0.3, 2, n), base)


def shaken(head: RidgeHead, likelihood: str = "gaussian") -> dict[str, Array]:
    rows = book(likelihood, seed=3)
    state = head.train(Episodes(rows, rows), None, likelihood, seed=0, progress=quiet)  # type: ignore[arg-type]
    r = np.random.default_rng(1)
    noise = {"noise": np.array(0.7)}
    return {name: value + 0.2 * r.normal(size=np.shape(value)) for name, value in state.items()} | noise


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("hidden", [(), (6,), (20,)])
def test_each_segment_equals_scikit_learn(likelihood: str, hidden: tuple[int, ...]) -> None:
    """With 20 features some segments are solved in rows and some in features."""
    head = RidgeHead(hidden=hidden, loop=EXACT)
    state, rows, scored = shaken(head, likelihood), book(likelihood), book(likelihood, seed=1)
    adaptation = head.adapt(state, rows, likelihood)  # type: ignore[arg-type]
    eta, variance = head.predict(state, adaptation, scored, likelihood)  # type: ignore[arg-type]
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    ridge = float(np.exp(state["log_ridge"]))

    def features(packed: Packed) -> Array:
        base = torch.from_numpy(packed.base) - float(state["centre"])
        return np.asarray(head_features(tensors, torch.from_numpy(packed.x), base, "offset"))

    for number in (0, 2, 3, 4):
        one, new = rows.select([number]), scored.select([number])
        phi = features(one)
        pooled = one.base if likelihood == "gaussian" else special.expit(one.base + state["bias"])
        fit = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky")
        fit.fit(phi, one.y - pooled - phi @ state["mean"], sample_weight=one.weight)
        weights = state["mean"] + fit.coef_
        np.testing.assert_allclose(adaptation.arrays["weights"][number], weights, rtol=1e-7, atol=1e-9)
        linear = features(new) @ weights
        part = eta[scored.index == number]
        if likelihood == "gaussian":
            np.testing.assert_allclose(part, new.base + linear, rtol=1e-7, atol=1e-9)
            covariance = 0.7 * np.linalg.inv(phi.T @ (phi * one.weight[:, None]) + ridge * np.eye(phi.shape[1]))
            expected = np.einsum("ni,ij,nj->n", features(new), covariance, features(new))
            assert variance is not None
            np.testing.assert_allclose(variance[scored.index == number], expected, rtol=1e-7, atol=1e-9)
        else:
            np.testing.assert_allclose(
                part, new.base + state["bias"] + np.exp(state["log_scale"]) * linear, rtol=1e-7, atol=1e-8
            )
            assert variance is None


@pytest.mark.parametrize("rows", [4, 30])
def test_the_meta_gradient_equals_finite_differences(rows: int) -> None:
    head = RidgeHead(hidden=(6,), loop=EXACT)
    state = shaken(head, "bernoulli")
    start = {name: torch.tensor(value) for name, value in state.items() if name not in ("centre", "noise")}
    likelihood, r = LIKELIHOODS["bernoulli"], np.random.default_rng(0)

    def block() -> Block:
        shape = (3, rows)
        columns = (r.normal(size=(*shape, 3)), r.random(shape) < 0.4, r.uniform(0, 2, shape), r.normal(size=shape))
        return Block(*(torch.from_numpy(np.asarray(column, dtype=float)) for column in columns))

    support, query = block(), block()

    def outer(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        weights, _ = head._solve(parameters, support, 0.1, likelihood)
        linear = (head_features(parameters, query.x, query.base - 0.1, "offset") @ weights.unsqueeze(-1)).squeeze(-1)
        return mean_loss(likelihood, head._score(parameters, linear, query.base, likelihood), query).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    found = torch.autograd.grad(outer(leaves), list(leaves.values()))
    for (name, value), gradient in zip(start.items(), found, strict=True):
        direction = torch.from_numpy(np.asarray(r.normal(size=tuple(value.shape))))
        ends = [float(outer({**start, name: value + sign * 1e-6 * direction})) for sign in (1, -1)]
        central = (ends[0] - ends[1]) / 2e-6
        assert abs(central - float((gradient * direction).sum())) < 1e-5 * (1 + abs(central)), name


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_training_beats_the_base_on_new_segments(likelihood: str) -> None:
    def tasks(seed: int) -> Episodes:
        whole = book(likelihood, sizes=(60,) * 50, seed=seed)
        early = np.arange(whole.rows) % 60 < 30
        starts = np.arange(51) * 30
        columns = ("x", "y", "weight", "base")
        return Episodes(
            *(Packed(whole.keys, starts, *(getattr(whole, c)[k] for c in columns)) for k in (early, ~early))
        )

    head = RidgeHead(hidden=(), ridge=0.3, loop=replace(EXACT, steps=60, rate=5e-2, evaluate_every=30))
    state = head.train(tasks(0), tasks(1), likelihood, seed=0, progress=quiet)  # type: ignore[arg-type]
    fresh = tasks(2)
    eta, _ = head.predict(state, head.adapt(state, fresh.support, likelihood), fresh.query, likelihood)  # type: ignore[arg-type]
    y = torch.from_numpy(fresh.query.y)
    ours, base = (
        float(LIKELIHOODS[likelihood].loss(torch.from_numpy(z), y).mean())  # type: ignore[index]
        for z in (eta, fresh.query.base)
    )
    assert ours < 0.85 * base
    if likelihood == "gaussian":
        # what 30 rows leave uncertain is not noise; 1,500 query rows: one standard error is .0055
        assert abs(np.sqrt(state["noise"]) - 0.3) < 0.02


def test_unseen_empty_and_odd_segments_are_defined() -> None:
    head = RidgeHead(hidden=(6,), loop=EXACT)
    state, rows = shaken(head), book()
    adaptation = head.adapt(state, rows, "gaussian")
    np.testing.assert_array_equal(adaptation.arrays["weights"][1], state["mean"])
    stranger = replace(rows.select([0]), keys=(("new",),))
    empty = replace(rows.select([0]), keys=(("s1",),))
    one, other = (head.predict(state, adaptation, each, "gaussian") for each in (stranger, empty))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(one[1], other[1])
    flat = replace(rows, x=np.zeros_like(rows.x), y=np.ones(rows.rows))
    eta, _ = head.predict(state, head.adapt(state, flat, "gaussian"), flat, "gaussian")
    assert np.isfinite(eta).all()


def test_the_order_of_rows_changes_no_bit() -> None:
    head = RidgeHead(hidden=(6,), loop=replace(EXACT, precision="float32"))
    state, rows, r = shaken(head), book(), np.random.default_rng(2)
    order = np.concatenate([r.permutation(np.arange(a, b)) for a, b in zip(rows.starts, rows.starts[1:], strict=False)])
    mixed = replace(rows, x=rows.x[order], y=rows.y[order], weight=rows.weight[order], base=rows.base[order])
    one, other = (head.adapt(state, each, "gaussian") for each in (rows, mixed))
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[name])


def test_another_likelihood_is_refused() -> None:
    with pytest.raises(ModelError, match="among bernoulli, gaussian, got poisson"):
        RidgeHead(hidden=(6,), loop=EXACT).adapt({}, book(), "poisson")
