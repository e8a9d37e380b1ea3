"""Without the canonical order, too, what is computed from rows differs by rounding alone when they change places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from metarisk.domain import Array, Packed
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.heads.ridge_head import RidgeHead
from metarisk.learners.kernels.adapting import adapt_segments
from metarisk.learners.kernels.plan import Plan
from metarisk.learners.kernels.unroll import Unroll
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.metric.learner import MetricLearner
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.metric.siamese import Siamese
from metarisk.learners.packing import Block

LOSS, TASKS, SUPPORT, QUERY, INPUTS = LIKELIHOODS["bernoulli"], 3, 40, 25, 6
Computed = Callable[[Block, Block], Tensor]


def block(rows: int, seed: int) -> Block:
    r = np.random.default_rng(seed)
    shape = (TASKS, rows)
    columns = (r.normal(size=(*shape, INPUTS)), r.random(shape) < 0.4, r.uniform(0.1, 2, shape), r.normal(size=shape))
    return Block(*(torch.from_numpy(np.asarray(column, dtype=float)) for column in columns))


def tensors(arrays: Mapping[str, Array], seed: int = 0) -> dict[str, Tensor]:
    """Parameters none of which stands at its start."""
    r = np.random.default_rng(seed)
    return {name: torch.tensor(value + 0.2 * r.normal(size=np.shape(value))) for name, value in arrays.items()}


def matrices(*widths: int) -> list[Tensor]:
    r = np.random.default_rng(0)
    return [torch.from_numpy(r.normal(size=(a + 1, b)) / np.sqrt(a)) for a, b in pairwise(widths)]


def adapted(support: Block, query: Block) -> Tensor:
    """Ragged segments, 10 steps, in the order in which their rows stand."""
    flat = (part.flatten(0, 1).numpy() for part in support)
    rows = Packed(tuple((str(i),) for i in range(TASKS)), np.arange(TASKS + 1) * SUPPORT, *flat)
    weights = matrices(INPUTS, 8, 1)
    found = adapt_segments(weights, [[0.1, 0.1]] * 10, rows, np.arange(rows.rows), LOSS, activation="tanh")
    return torch.cat([layer.flatten() for layer in found])


def meta_gradient(support: Block, query: Block) -> Tensor:
    """Second order, 5 steps."""
    given = [each._replace(x=torch.nn.functional.pad(each.x, (0, 1), value=1.0)) for each in (support, query)]
    kernel = Unroll(
        TASKS,
        (SUPPORT, QUERY),
        (INPUTS, 8, 1),
        Plan(5, "tanh"),
        LOSS,
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    found = kernel(matrices(INPUTS, 8, 1), [[0.1, 0.1]] * 5, *given)
    return torch.cat([found.losses, *(each.flatten() for each in found.weights)])


def map_head(support: Block, query: Block) -> Tensor:
    head = MapNetwork(hidden=(5,))
    parameters = tensors(head._start(INPUTS, np.random.default_rng(0)))
    return head._implicit(parameters, head._problem(parameters, support, 0.1), LOSS).flatten()


def ridge_head(support: Block, query: Block) -> Tensor:
    start = {"body.0": matrices(INPUTS, 5)[0].numpy(), "mean": np.zeros(7)}
    parameters = tensors({**start, "log_ridge": np.array(1.0), "bias": np.array(0.0), "log_scale": np.array(0.0)})
    return torch.cat([part.flatten() for part in RidgeHead(hidden=(5,))._solve(parameters, support, 0.1, LOSS)])


def metric(learner: MetricLearner) -> Computed:
    """The training loss, pairs included."""
    own = {"body.0": matrices(INPUTS, 4)[0].numpy(), "bias": np.array(0.1), "log_mass": np.array(0.0)}
    parameters = tensors({**own, **learner.start(np.random.default_rng(0))})
    return lambda support, query: learner.losses(parameters, support, query, 0.1)


COMPUTED: dict[str, Computed] = {
    "adapted": adapted,
    "meta_gradient": meta_gradient,
    "map_head": map_head,
    "ridge_head": ridge_head,
    "prototypical": metric(Prototypical(hidden=(), embedding=4)),
    "matching": metric(Matching(hidden=(), embedding=4)),
    "siamese": metric(Siamese(hidden=(), embedding=4)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_rows_that_change_places_change_rounding_alone(name: str) -> None:
    support, query, r = block(SUPPORT, 1), block(QUERY, 2), np.random.default_rng(3)

    def mixed(given: Block) -> Block:
        order = np.argsort(r.random(given.y.shape), axis=1)
        return Block(*(part[np.arange(TASKS)[:, None], order] for part in given))

    with torch.no_grad():
        one, other = (COMPUTED[name](*each) for each in ((support, query), (mixed(support), mixed(query))))
    assert not torch.equal(one, torch.zeros_like(one))
    assert float((one - other).norm()) <= 1e-12 * float(one.norm())
