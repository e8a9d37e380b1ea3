"""The MAP head against scipy's minimiser, unrolled autograd and finite differences, and what it does at the edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize, special

from metarisk.domain import Array, DataError, Episodes, LikelihoodName, ModelError, Packed
from metarisk.learners.heads.map_network import MapNetwork, Problem, solve
from metarisk.learners.heads.ridge_head import RidgeHead
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop
from metarisk.learners.packing import Block
from metarisk.tasks import concat

SIZES = (30, 0, 7, 1, 90, 16)
EXACT = Loop(precision="float64", graph=False, device="cpu", steps=3, rate=1e-2)


def quiet(done: int, total: int, note: str) -> None:
    pass


def book(likelihood: LikelihoodName = "bernoulli", sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Packed:
    r = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(starts[-1])
    x, base = r.normal(size=(n, 3)), r.normal(-0.5, 0.8, n)
    eta = base + x @ np.array([0.5, -0.4, 0.0]) + np.repeat(r.normal(0, 0.7, len(sizes)), sizes)
    if likelihood in ("bernoulli", "hazard"):
        y = (r.random(n) < special.expit(eta)).astype(float)
    elif likelihood in ("poisson", "negative_binomial"):
        y = r.poisson(np.exp(eta)).astype(float)
    else:
        y = np.exp(eta) if likelihood == "qlike" else eta + 0.5 * r.normal(size=n)
    return Packed(tuple((f"s{i}",) for i in range(len(sizes))), starts, x, y, r.uniform(0.3, 2, n), base)


def some_state(head: MapNetwork, inputs: int = 3) -> dict[str, Array]:
    """Learned values that are no default, so that none can be left out unnoticed."""
    r = np.random.default_rng(9)
    state = {name: value + 0.3 * r.normal(size=value.shape) for name, value in head._start(inputs, r).items()}
    return {**state, "centre": np.array(-0.4), "noise": np.array(1.0)}


def features_of(rows: Packed) -> Array:
    return np.column_stack([np.ones(rows.rows), rows.base + 0.4, rows.x])


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "hazard", "poisson", "negative_binomial", "gaussian", "qlike", "quantile"]
)
@pytest.mark.parametrize("prior", ["diagonal", "full"])
def test_each_segment_equals_a_general_minimiser(likelihood: LikelihoodName, prior: str) -> None:
    head = MapNetwork(prior=prior, loop=EXACT)  # type: ignore[arg-type]
    state, rows = some_state(head), book(likelihood)
    adaptation = head.adapt(state, rows, likelihood)
    factor = np.diag(np.exp(state["log_precision"] / 2))
    if prior == "full":
        factor = factor + np.tril(state["lower"], -1)
    precision = factor @ factor.T
    for number in range(len(rows.keys)):
        one = rows.select([number])
        phi, y = features_of(one), torch.from_numpy(one.y)

        def objective(w: Array, one: Packed = one, phi: Array = phi, y: torch.Tensor = y) -> tuple[float, Array]:
            eta, deviation = torch.from_numpy(one.base + phi @ w), w - state["mean"]
            loss, slope = (f(eta, y).numpy() for f in (LIKELIHOODS[likelihood].loss, LIKELIHOODS[likelihood].gradient))
            return (
                float(one.weight @ loss + deviation @ precision @ deviation / 2),
                phi.T @ (one.weight * slope) + precision @ deviation,
            )

        found = optimize.minimize(objective, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-9})
        weights = adaptation.arrays["weights"][number]
        np.testing.assert_allclose(weights, found.x, rtol=0, atol=2e-7)
        assert np.abs(objective(weights)[1]).max() < 1e-9 * (1 + one.weight.sum())
        bend = LIKELIHOODS[likelihood].curvature(torch.from_numpy(one.base + phi @ weights), y).numpy()
        covariance = np.linalg.inv(phi.T @ (phi * (one.weight * bend)[:, None]) + precision)
        np.testing.assert_allclose(adaptation.arrays["covariance"][number], covariance, rtol=0, atol=1e-7)


def test_prediction_is_the_weights_on_the_features_with_the_posterior_variance() -> None:
    head = MapNetwork(loop=EXACT)
    state, rows, scored = some_state(head), book(), book(seed=1)
    adaptation = head.adapt(state, rows, "bernoulli")
    eta, variance = head.predict(state, adaptation, scored, "bernoulli")
    phi = features_of(scored)
    np.testing.assert_allclose(eta, scored.base + (phi * adaptation.arrays["weights"][scored.index]).sum(1), rtol=1e-12)
    expected = np.einsum("ni,nij,nj->n", phi, adaptation.arrays["covariance"][scored.index], phi)
    np.testing.assert_allclose(variance, expected, rtol=1e-12)


def test_an_unseen_segment_and_one_without_rows_have_the_prior() -> None:
    head = MapNetwork(loop=EXACT)
    state, rows = some_state(head), book()
    adaptation = head.adapt(state, rows, "bernoulli")
    np.testing.assert_array_equal(adaptation.arrays["weights"][1], state["mean"])
    np.testing.assert_allclose(adaptation.arrays["covariance"][1], np.diag(np.exp(-state["log_precision"])))
    stranger = replace(rows.select([0]), keys=(("new",),))
    eta, variance = head.predict(state, adaptation, stranger, "bernoulli")
    phi = features_of(stranger)
    np.testing.assert_allclose(eta, stranger.base + phi @ state["mean"])
    np.testing.assert_allclose(variance, (phi**2) @ np.exp(-state["log_precision"]))


def test_the_implicit_meta_gradient_equals_unrolled_newton_and_finite_differences() -> None:
    head = MapNetwork(hidden=(6, 4), prior="full", loop=EXACT)
    r = np.random.default_rng(0)
    start = {
        name: torch.from_numpy(value + 0.2 * r.normal(size=value.shape)) for name, value in head._start(3, r).items()
    }
    likelihood = LIKELIHOODS["bernoulli"]
    shape = (4, 12)
    blocks = []
    for _ in range(2):
        weight = torch.from_numpy(r.uniform(0, 2, shape) * (r.random(shape) < 0.8))
        y = torch.from_numpy((r.random(shape) < 0.4).astype(float))
        blocks.append((torch.from_numpy(r.normal(size=(*shape, 3))), y, weight, torch.from_numpy(r.normal(size=shape))))
    support, query = Block(*blocks[0]), Block(*blocks[1])

    def outer(parameters: dict[str, torch.Tensor], unrolled: bool) -> torch.Tensor:
        problem = head._problem(parameters, support, 0.1)
        if unrolled:
            weights = problem.mean.expand(4, -1)
            for _ in range(12):
                eta = problem.scores(weights)
                factor = problem.factor(likelihood, eta)
                gradient = problem.gradient(likelihood, weights, eta)
                weights = weights - torch.cholesky_solve(gradient.unsqueeze(-1), factor, upper=True).squeeze(-1)
        else:
            weights = head._implicit(parameters, problem, likelihood)
        scored = head._problem(parameters, query, 0.1)
        return (likelihood.loss(scored.scores(weights), query.y) * query.weight).sum()

    def gradients(unrolled: bool) -> list[torch.Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
        return list(torch.autograd.grad(outer(leaves, unrolled), list(leaves.values())))

    implicit, unrolled = gradients(False), gradients(True)
    for one, other in zip(implicit, unrolled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    for (name, value), found in zip(start.items(), implicit, strict=True):
        direction = torch.from_numpy(r.normal(size=tuple(value.shape)))
        step = 1e-5
        ends = [float(outer({**start, name: value + sign * step * direction}, False)) for sign in (1, -1)]
        central = (ends[0] - ends[1]) / (2 * step)
        assert abs(central - float((found * direction).sum())) < 1e-5 * (1 + abs(central)), name


def test_a_meta_gradient_that_forgets_the_solution_moves_is_another() -> None:
    """The check above can fail: without the implicit term the prior mean's gradient is far off."""
    head = MapNetwork(loop=EXACT)
    state = some_state(head)
    leaves = {name: torch.from_numpy(state[name]).requires_grad_() for name in ("mean", "log_precision")}
    r = np.random.default_rng(2)
    phi = torch.from_numpy(r.normal(size=(2, 10, 5)))
    y = torch.from_numpy((r.random((2, 10)) < 0.5).astype(float))
    problem = Problem(
        phi,
        y,
        torch.ones(2, 10).double(),
        torch.zeros(2, 10).double(),
        leaves["mean"],
        head._precision(leaves),
    )
    full = head._implicit(leaves, problem, LIKELIHOODS["bernoulli"])
    (gradient,) = torch.autograd.grad(problem.scores(full).sum(), leaves["mean"])
    with torch.no_grad():
        weights, _ = solve(problem, LIKELIHOODS["bernoulli"])
    assert not problem.scores(weights).requires_grad and float(gradient.abs().max()) > 0.1


def test_the_order_of_rows_changes_no_bit_and_neighbours_change_none_either() -> None:
    head = MapNetwork(hidden=(5,))
    state, rows, r = some_state(head), book(), np.random.default_rng(2)
    order = np.concatenate([r.permutation(np.arange(a, b)) for a, b in zip(rows.starts, rows.starts[1:], strict=False)])
    mixed = replace(rows, x=rows.x[order], y=rows.y[order], weight=rows.weight[order], base=rows.base[order])
    whole, other = (head.adapt(state, one, "bernoulli") for one in (rows, mixed))
    few = head.adapt(state, rows.select([4, 2]), "bernoulli")
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[name])
        np.testing.assert_array_equal(values[[4, 2]], few.arrays[name])


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "hazard"])
def test_one_class_zero_variance_features_and_extreme_scores_stay_finite(likelihood: LikelihoodName) -> None:
    head = MapNetwork(loop=EXACT)
    rows = book(likelihood)
    for y in (np.zeros(rows.rows), np.ones(rows.rows)):
        hard = replace(rows, y=y, x=np.ones_like(rows.x), base=rows.base * 10)
        eta, variance = head.predict(some_state(head), head.adapt(some_state(head), hard, likelihood), hard, likelihood)
        assert variance is not None and np.isfinite(eta).all() and (variance > 0).all()


def test_weight_zero_is_no_row_and_weight_two_is_the_row_twice() -> None:
    head = MapNetwork(loop=EXACT)
    state, rows = some_state(head), book(sizes=(20,))
    half = replace(rows, weight=np.repeat([2.0, 0.0], 10))
    twice = Packed(
        rows.keys,
        rows.starts,
        *(np.concatenate([getattr(rows, name)[:10]] * 2) for name in ("x", "y")),
        np.ones(20),
        np.tile(rows.base[:10], 2),
    )
    one, other = (head.adapt(state, each, "bernoulli").arrays["weights"] for each in (half, twice))
    np.testing.assert_allclose(one, other, rtol=1e-9)


def simulated(seed: int, segments: int = 60, size: int = 60) -> tuple[Packed, Array]:
    """Segments whose weights on [1, base, x] have mean (0.5, 0, 1, -1) and standard deviations (1, .01, .8, .01)."""
    r = np.random.default_rng(seed)
    weights = np.array([0.5, 0.0, 1.0, -1.0]) + r.normal(size=(segments, 4)) * np.array([1.0, 0.01, 0.8, 0.01])
    n = segments * size
    x, base = r.normal(size=(n, 2)), r.normal(size=n)
    eta = base + (np.column_stack([np.ones(n), base, x]) * np.repeat(weights, size, 0)).sum(1)
    y = (r.random(n) < special.expit(eta)).astype(float)
    keys = tuple((f"{seed}-{i}",) for i in range(segments))
    return Packed(keys, np.arange(segments + 1) * size, x, y, np.ones(n), base), eta


def split(rows: Packed, size: int, at: int) -> Episodes:
    """First `at` rows of each segment support, the rest query."""
    within = np.arange(rows.rows) % size
    parts = []
    for keep, length in ((within < at, at), (within >= at, size - at)):
        starts = np.arange(len(rows.keys) + 1) * length
        columns = (getattr(rows, name)[keep] for name in ("x", "y", "weight", "base"))
        parts.append(Packed(rows.keys, starts, *columns))
    return Episodes(*parts)


def test_training_learns_the_prior_that_made_the_segments() -> None:
    head = MapNetwork(loop=replace(EXACT, steps=400, rate=3e-2, evaluate_every=200))
    rows, _ = simulated(0)
    state = head.train(split(rows, 60, 30), None, "bernoulli", seed=1, progress=quiet)
    np.testing.assert_allclose(state["mean"][[0, 2, 3]], [0.5, 1.0, -1.0], atol=0.35)
    scale = np.exp(-state["log_precision"] / 2)
    assert scale[0] > 0.5 and scale[2] > 0.4 and scale[1] < 0.3 and scale[3] < 0.3
    fresh, truth = simulated(5)
    tasks = split(fresh, 60, 30)
    adapted, variance = head.predict(state, head.adapt(state, tasks.support, "bernoulli"), tasks.query, "bernoulli")
    prior, _ = head.predict(state, head.adapt(state, tasks.support.select([]), "bernoulli"), tasks.query, "bernoulli")
    target = truth[np.arange(fresh.rows) % 60 >= 30]
    assert variance is not None
    assert ((adapted - target) ** 2).mean() < 0.5 * ((prior - target) ** 2).mean()
    # the posterior variance is the right size: standardised errors are about standard normal
    assert 0.7 < ((adapted - target) ** 2 / variance).mean() < 1.5


@pytest.mark.parametrize(
    "head",
    [
        MapNetwork(prior_scale=1.0, loop=replace(EXACT, steps=200, rate=3e-2, evaluate_every=200)),
        RidgeHead(hidden=(), ridge=1.0, loop=replace(EXACT, steps=200, rate=3e-2, evaluate_every=200)),
    ],
    ids=["map", "ridge"],
)
def test_a_gaussian_head_learns_its_noise_from_segments_at_several_cut_offs(head: MapNetwork | RidgeHead) -> None:
    """Later support holds earlier query rows, under the same key; 6 to 30 rows leave 8 weights of variance 1 open."""
    r, segments, inputs = np.random.default_rng(0), 60, 8
    x = r.normal(size=(segments, 36, inputs))
    y = (x * r.normal(size=(segments, 1, inputs))).sum(-1) + 0.7 * r.normal(size=(segments, 36))

    def rows(begin: int, end: int) -> Packed:
        n = segments * (end - begin)
        columns = (x[:, begin:end].reshape(n, inputs), y[:, begin:end].ravel(), np.ones(n), np.zeros(n))
        return Packed(tuple((str(i),) for i in range(segments)), np.arange(segments + 1) * (end - begin), *columns)

    cuts = range(6, 36, 6)
    tasks = Episodes(concat([rows(0, cut) for cut in cuts]), concat([rows(cut, cut + 6) for cut in cuts]))
    state = head.train(tasks, None, "gaussian", seed=1, progress=quiet)
    # 1,800 query rows: one standard error is .033; scores that knew their own rows' labels would find .86
    assert abs(state["noise"] / 0.7**2 - 1) < 0.1


def test_bad_input_is_refused() -> None:
    head = MapNetwork(loop=EXACT)
    state, rows = some_state(head), book()
    with pytest.raises(DataError, match="expected 3 features"):
        head.adapt(state, replace(rows, x=rows.x[:, :2]), "bernoulli")
    with pytest.raises(DataError, match="finite numbers"):
        head.adapt(state, replace(rows, x=np.full_like(rows.x, np.nan)), "bernoulli")
    with pytest.raises(ModelError, match="labels 0 or 1"):
        head.adapt(state, replace(rows, y=rows.y + 0.5), "bernoulli")
    with pytest.raises(ModelError, match="got gaussian_mv"):
        head.adapt(state, rows, "gaussian_mv")
