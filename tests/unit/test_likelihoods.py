"""Likelihoods: closed forms against autograd and published densities, ranges of labels, extreme scores."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from metarisk.domain import Episodes, ModelError, Packed
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.likelihoods import LIKELIHOODS, Likelihood, negative_binomial, quantile
from metarisk.learners.loop import Loop

NAMES = sorted(LIKELIHOODS)
ONE_OUTPUT = [name for name in NAMES if LIKELIHOODS[name].outputs == 1]


def labels(likelihood: Likelihood, n: int, seed: int = 3) -> np.ndarray:
    r = np.random.default_rng(seed)
    if likelihood.name in ("bernoulli", "hazard", "cumulative_hazard"):
        return (r.random(n) < 0.5).astype(float)
    if likelihood.name in ("poisson", "negative_binomial"):
        return r.poisson(2.0, n).astype(float)
    return np.abs(r.normal(size=n)) if likelihood.name == "qlike" else r.normal(size=n)


def scores(likelihood: Likelihood, n: int) -> torch.Tensor:
    r = np.random.default_rng(4)
    shape = (n,) if likelihood.outputs == 1 else (n, likelihood.outputs)
    return torch.tensor(r.uniform(-4, 3, shape), requires_grad=True)


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS.values(), negative_binomial(0.3), quantile(0.01, 0.1)])
def test_gradient_and_curvature_are_those_of_the_loss(likelihood: Likelihood) -> None:
    n = 200
    y, eta = torch.tensor(labels(likelihood, n)), scores(likelihood, n)
    (slope,) = torch.autograd.grad(likelihood.loss(eta, y).sum(), eta, create_graph=True)
    torch.testing.assert_close(likelihood.gradient(eta, y), slope, rtol=1e-11, atol=1e-12)
    if likelihood.outputs == 1:
        (bend,) = torch.autograd.grad(slope.sum(), eta)
    else:
        bend = torch.stack([torch.autograd.grad(slope[:, j].sum(), eta, retain_graph=True)[0] for j in range(2)], 1)
    torch.testing.assert_close(likelihood.curvature(eta, y), bend, rtol=1e-9, atol=1e-12)


def density(name: str, eta: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log density of scipy for the same distribution."""
    if name == "bernoulli":
        return -stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-eta)))
    if name == "hazard":
        return -stats.bernoulli.logpmf(y, stats.gumbel_l.cdf(eta))
    if name == "gaussian":
        return -stats.norm.logpdf(y, eta)
    if name == "gaussian_mv":
        return -stats.norm.logpdf(y, eta[:, 0], np.exp(eta[:, 1] / 2))
    if name == "qlike":
        return -stats.expon.logpdf(y, scale=np.exp(eta))
    if name in ("poisson", "cumulative_hazard"):
        return -stats.poisson.logpmf(y, np.exp(eta))
    return -stats.nbinom.logpmf(y, 1.0, 1 / (1 + np.exp(eta)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "quantile"])
def test_loss_differs_between_scores_as_the_published_density_does(name: str) -> None:
    likelihood = LIKELIHOODS[name]
    y = labels(likelihood, 100)
    one, other = scores(likelihood, 100).detach(), -0.3 * scores(likelihood, 100).detach()
    ours = (likelihood.loss(one, torch.tensor(y)) - likelihood.loss(other, torch.tensor(y))).numpy()
    np.testing.assert_allclose(ours, density(name, one.numpy(), y) - density(name, other.numpy(), y), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_scores_of_fifty_are_finite_to_the_second_derivative(name: str, dtype: torch.dtype) -> None:
    likelihood = LIKELIHOODS[name]
    eta = torch.linspace(-50, 50, 41, dtype=dtype).repeat(2)
    y = torch.tensor([0.0, 1.0], dtype=dtype).repeat_interleave(41)
    if likelihood.outputs == 2:
        eta = torch.stack([eta, eta.flip(0)], -1)
    eta.requires_grad_()
    loss = likelihood.loss(eta, y)
    (slope,) = torch.autograd.grad(loss.sum(), eta, create_graph=True)
    (bend,) = torch.autograd.grad(likelihood.gradient(eta, y).sum(), eta)
    closed = (loss, slope, bend, likelihood.gradient(eta, y), likelihood.curvature(eta, y), likelihood.mean(eta))
    assert all(torch.isfinite(value).all() for value in closed)
    assert likelihood.outputs == 2 or (likelihood.curvature(eta, y) >= 0).all()


def test_hazard_curvature_is_accurate_where_its_plain_form_cancels() -> None:
    log_hazard = torch.tensor([-45.0, -20.0, -9.0, math.log(0.0199999), math.log(0.0200001)], dtype=torch.float64)
    h = log_hazard.exp()
    expected = h / torch.expm1(h) * (h / 2 + h**2 / 12 - h**4 / 720 + h**6 / 30240 - h**8 / 1209600)
    got = LIKELIHOODS["hazard"].curvature(log_hazard, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_periods_without_event_collapse_exactly_and_pd_adds_hazards() -> None:
    hazard = LIKELIHOODS["hazard"]
    periods = torch.tensor([-4.0, -3.5, -3.0, -5.0], dtype=torch.float64)
    survived = torch.zeros(4, dtype=torch.float64)
    collapsed = torch.logsumexp(periods, 0)
    for shift in (-1.0, 0.0, 2.0):
        torch.testing.assert_close(
            hazard.loss(periods + shift, survived).sum(), hazard.loss(collapsed + shift, survived[0])
        )
    survival = torch.prod(1 - hazard.mean(periods))
    torch.testing.assert_close(hazard.mean(collapsed), 1 - survival)


def test_a_competing_exit_leaves_the_risk_set_and_is_no_event() -> None:
    """Person-period rows of subjects that end by event, exit or the calendar: each period's hazard is its share of
    events among those at risk, as Kaplan and Meier (1958) have it, through a learner with a prior too wide to matter.
    """
    r = np.random.default_rng(6)
    periods, subjects = 5, 3_000
    event, leaves = r.geometric(0.06, subjects), r.geometric(0.15, subjects)
    last = np.minimum(np.minimum(event, leaves), periods)
    period = np.concatenate([np.arange(1, n + 1) for n in last])
    y = np.concatenate([np.arange(1, n + 1) == e for n, e in zip(last, event, strict=True)]).astype(float)
    order = np.argsort(period, kind="stable")
    period, y = period[order], y[order]
    sizes = np.bincount(period)[1:]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = Packed(
        tuple((str(i),) for i in range(periods)), starts, np.zeros((len(y), 0)), y, np.ones_like(y), 0 * y - 2
    )
    head = MapNetwork(fusion="none", prior_scale=1e4, loop=Loop(precision="float64"))
    state = {**head._start(0, r), "centre": np.array(0.0), "noise": np.array(1.0)}
    eta, _ = head.predict(state, head.adapt(state, rows, "hazard"), rows, "hazard")
    hazard = LIKELIHOODS["hazard"].mean(torch.from_numpy(eta)).numpy()[starts[:-1]]
    share = np.bincount(period, weights=y)[1:] / sizes
    np.testing.assert_allclose(hazard, share, rtol=1e-6)
    # exits halve the risk set, and the hazard that made the events is still found
    assert sizes[-1] < subjects / 2
    assert np.abs(share - 0.06).max() < 4 * np.sqrt(0.06 / sizes[-1])


def test_a_head_trained_with_a_size_knows_how_far_overdispersed_counts_mislead() -> None:
    """Counts of variance mu + mu^2 / 0.5 with exposure: under their own size errors are as large as stated, under
    Poisson's likelihood larger.
    """
    r = np.random.default_rng(7)
    segments, size = 60, 16
    exposure = np.log(r.uniform(0.5, 4.0, 2 * segments * size))
    truth = np.repeat(r.normal(0.3, 0.4, segments), 2 * size)
    mu = np.exp(truth + exposure)
    y = r.negative_binomial(0.5, 0.5 / (0.5 + mu)).astype(float)
    early = np.arange(len(y)) % (2 * size) < size
    keys, starts = tuple((str(i),) for i in range(segments)), np.arange(segments + 1) * size

    def packed(part: np.ndarray) -> Packed:
        n = int(part.sum())
        return Packed(keys, starts, np.zeros((n, 0)), y[part], np.ones(n), exposure[part])

    tasks = Episodes(packed(early), packed(~early))
    loop = Loop(steps=30, rate=1e-1, meta_batch=segments, precision="float64", graph=False, device="cpu")
    spread = {}
    for name, options in (("negative_binomial", {"size": 0.5}), ("poisson", {})):
        head = MapNetwork(fusion="offset", likelihood_options=options, loop=loop)
        state = head.train(tasks, None, name, seed=0, progress=lambda *_: None)
        eta, variance = head.predict(state, head.adapt(state, tasks.support, name), tasks.query, name)
        gap = eta - exposure[~early] - truth[~early]
        spread[name] = float((gap**2 / variance).mean())
    assert 0.6 < spread["negative_binomial"] < 1.6
    assert spread["poisson"] > 1.5 * spread["negative_binomial"]


@pytest.mark.parametrize("tau", [0.05, 0.5, 0.99])
def test_smoothed_quantile_tends_to_the_check_loss_and_its_minimiser_to_the_quantile(tau: float) -> None:
    y = torch.tensor(np.random.default_rng(5).normal(size=4000))
    sharp = quantile(tau, 1e-4)
    eta = torch.linspace(-3, 3, 601, dtype=torch.float64)
    check = torch.maximum(tau * (y - 0.3), (tau - 1) * (y - 0.3))
    torch.testing.assert_close(sharp.loss(torch.full_like(y, 0.3), y), check, rtol=0, atol=1e-4)
    best = eta[torch.stack([sharp.loss(e.expand_as(y), y).sum() for e in eta]).argmin()]
    assert abs(float(best) - float(torch.quantile(y, tau))) <= 0.011


def test_negative_binomial_tends_to_poisson() -> None:
    eta, y = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64), torch.tensor([0.0, 3.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(
        negative_binomial(1e9).gradient(eta, y), LIKELIHOODS["poisson"].gradient(eta, y), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("bernoulli", 0.5),
        ("bernoulli", -1.0),
        ("hazard", 2.0),
        ("poisson", -1.0),
        ("negative_binomial", -0.1),
        ("qlike", -1e-9),
        ("gaussian", math.inf),
        ("gaussian_mv", math.nan),
        ("quantile", math.nan),
        ("bernoulli", math.nan),
    ],
)
def test_a_label_out_of_range_is_refused_by_value_and_row(name: str, bad: float) -> None:
    with pytest.raises(ModelError, match=rf"{name} expects labels .* got {bad}.* in row 1 \(1 of 3"):
        LIKELIHOODS[name].validate(np.array([1.0, bad, 1.0]))


@pytest.mark.parametrize("name", NAMES)
def test_labels_in_range_pass(name: str) -> None:
    LIKELIHOODS[name].validate(labels(LIKELIHOODS[name], 50))
    LIKELIHOODS[name].validate(np.zeros(0))


def test_labels_of_wrong_shape_or_type_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 1\)"):
        LIKELIHOODS["gaussian"].validate(np.zeros((2, 1)))
    with pytest.raises(ModelError, match="numbers"):
        LIKELIHOODS["gaussian"].validate(np.array(["a"]))


@pytest.mark.parametrize("make", [lambda: negative_binomial(0.0), lambda: quantile(1.0), lambda: quantile(0.5, 0.0)])
def test_impossible_parameters_are_refused(make: object) -> None:
    with pytest.raises(ModelError, match="expects"):
        make()  # type: ignore[operator]
