"""Meta-gradients of tasks side by side in padded blocks against a plain loop: one task at a time, its rows alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarisk.domain import Array, LikelihoodName
from metarisk.learners.episodic import head_features, mean_loss, start_body, start_head
from metarisk.learners.heads.map_network import MapNetwork, Problem, solve
from metarisk.learners.heads.ridge_head import RidgeHead
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop
from metarisk.learners.metric.learner import MetricLearner
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.metric.siamese import Siamese
from metarisk.learners.packing import Block

EXACT = Loop(precision="float64", graph=False, device="cpu")
SMALL: dict[str, Any] = {"hidden": (5,), "embedding": 4, "loop": EXACT}
SIZES = np.array([[9], [5], [1], [0]])
CENTRE = 0.1
Parameters = dict[str, Tensor]
Losses = Callable[[Parameters, Block, Block], Tensor]
"""(parameters, support, query) to the loss of each task (B,)."""


def blocks(likelihood: LikelihoodName = "bernoulli") -> tuple[Block, Block]:
    """Support and query of four tasks of 9, 5, 1 and no rows; what stands beyond them has weight 0."""
    r, shape = np.random.default_rng(0), (4, 9)
    made = []
    for _ in range(2):
        weight = r.uniform(0.3, 2, shape) * (np.arange(9) < SIZES)
        y = {
            "poisson": r.poisson(1.0, shape),
            "negative_binomial": r.poisson(1.0, shape),
            "qlike": np.exp(r.normal(size=shape)),
            "gaussian": r.normal(size=shape),
            "quantile": r.normal(size=shape),
        }.get(likelihood, r.random(shape) < 0.4)
        columns = (r.normal(size=(*shape, 3)), np.asarray(y, dtype=float), weight, r.normal(size=shape))
        made.append(Block(*map(torch.from_numpy, columns)))
    return made[0], made[1]


def relative_error(start: Mapping[str, Array], ours: Losses, plain: Losses, given: tuple[Block, Block]) -> float:
    """Between the two meta-gradients, at parameters none of which stands at its start."""
    r = np.random.default_rng(1)
    values = {name: torch.tensor(value + 0.2 * r.normal(size=np.shape(value))) for name, value in start.items()}

    def gradient(total: Callable[[Parameters], Tensor]) -> Tensor:
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        # the contrastive loss has no scales
        found = torch.autograd.grad(total(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
        return torch.cat([each.flatten() for each in found])

    def one_by_one(parameters: Parameters) -> Tensor:
        total = torch.zeros(()).double()
        for task, size in enumerate(SIZES[:, 0].tolist()):
            own = (Block(*(part[task : task + 1, : max(size, 1)] for part in block)) for block in given)
            total = total + plain(parameters, *own).sum()
        return total

    one, other = gradient(lambda parameters: ours(parameters, *given).sum()), gradient(one_by_one)
    assert float(other.norm()) > 0.01
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("prior", ["diagonal", "full"])
@pytest.mark.parametrize("name", [name for name, each in LIKELIHOODS.items() if each.outputs == 1])
def test_the_map_head_equals_a_loop_of_unrolled_newton_steps(name: LikelihoodName, prior: str) -> None:
    head, likelihood = MapNetwork(hidden=(6, 4), prior=prior, loop=EXACT), LIKELIHOODS[name]  # type: ignore[arg-type]

    def implicit(parameters: Parameters, problem: Problem) -> Tensor:
        return head._implicit(parameters, problem, likelihood)

    def unrolled(parameters: Parameters, problem: Problem) -> Tensor:
        """Steps from the solution, whose Hessian is differentiated as well."""
        with torch.no_grad():
            weights, _ = solve(problem, likelihood)
        for _ in range(3):
            eta = problem.scores(weights)
            bend = (problem.weight * likelihood.curvature(eta, problem.y)).unsqueeze(-1)
            hessian = problem.features.mT @ (problem.features * bend) + problem.precision
            weights = weights - torch.linalg.solve(hessian, problem.gradient(likelihood, weights, eta))
        return weights

    def losses(solution: Callable[[Parameters, Problem], Tensor]) -> Losses:
        def of(parameters: Parameters, support: Block, query: Block) -> Tensor:
            weights = solution(parameters, head._problem(parameters, support, CENTRE))
            return mean_loss(likelihood, head._problem(parameters, query, CENTRE).scores(weights), query)

        return of

    start = head._start(3, np.random.default_rng(0))
    assert relative_error(start, losses(implicit), losses(unrolled), blocks(name)) < 1e-10


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_the_ridge_head_equals_a_loop_that_solves_the_normal_equations(name: LikelihoodName) -> None:
    """Nine rows on 8 features are solved in features by the head, fewer in rows."""
    head, likelihood = RidgeHead(hidden=(6,), loop=EXACT), LIKELIHOODS[name]
    start = start_head(3, (6,), "offset", np.random.default_rng(0))
    start |= {"log_ridge": np.array(1.0), "bias": np.array(0.1), "log_scale": np.array(0.5)}

    def scored(parameters: Parameters, weights: Tensor, query: Block) -> Tensor:
        linear = head_features(parameters, query.x, query.base - CENTRE, "offset") @ weights.unsqueeze(-1)
        return mean_loss(likelihood, head._score(parameters, linear.squeeze(-1), query.base, likelihood), query)

    def ours(parameters: Parameters, support: Block, query: Block) -> Tensor:
        return scored(parameters, head._solve(parameters, support, CENTRE, likelihood)[0], query)

    def plain(parameters: Parameters, support: Block, query: Block) -> Tensor:
        features = head_features(parameters, support.x, support.base - CENTRE, "offset")[0]
        pooled = support.base if name == "gaussian" else torch.sigmoid(support.base + parameters["bias"])
        left = features.T @ (features * support.weight[0, :, None])
        left = left + torch.exp(parameters["log_ridge"]) * torch.eye(8).double()
        residual = support.y[0] - pooled[0] - features @ parameters["mean"]
        step = torch.linalg.solve(left, features.T @ (support.weight[0] * residual))
        return scored(parameters, (parameters["mean"] + step).unsqueeze(0), query)

    assert relative_error(start, ours, plain, blocks(name)) < 1e-10


@pytest.mark.parametrize(
    "learner",
    [
        Prototypical(**SMALL),
        Matching(**SMALL),
        Matching(**SMALL, context=True),
        Siamese(**SMALL),
        Siamese(**SMALL, pair_loss="contrastive"),
    ],
    ids=["prototypical", "matching", "matching in context", "siamese", "siamese contrastive"],
)
def test_metric_learners_equal_a_loop_over_tasks(learner: MetricLearner) -> None:
    r = np.random.default_rng(0)
    own = {**start_body(3, (5, 4), r), "bias": np.array(0.1), "log_mass": np.array(0.0)}

    def losses(parameters: Parameters, support: Block, query: Block) -> Tensor:
        return learner.losses(parameters, support, query, CENTRE)

    assert relative_error({**own, **learner.start(r)}, losses, losses, blocks()) < 1e-10
