"""The batched inner loop and its hand-written reverse against a plain loop through autograd, and finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metarisk.domain import LikelihoodName, ModelError
from metarisk.learners.kernels.plan import Plan, Rate
from metarisk.learners.kernels.unroll import Unroll
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.memory import free_memory
from metarisk.learners.packing import Block
from tests.unit.test_likelihoods import labels

CPU, F64 = torch.device("cpu"), torch.float64


@dataclass(frozen=True)
class Case:
    """Shapes and a plan; rows below the features use the Gram form of the first layer, rows above do not."""

    name: str
    plan: Plan
    n: int = 6
    q: int = 5
    widths: tuple[int, ...] = (9, 7, 4, 1)
    likelihood: LikelihoodName = "bernoulli"
    tasks: int = 3


CASES = [
    Case("gram", Plan(3)),
    Case("primal", Plan(3), n=12),
    Case("tanh-gram", Plan(3, activation="tanh")),
    Case("tanh-primal", Plan(3, activation="tanh"), n=12),
    Case("first-order", Plan(3, order=1)),
    Case("no-steps", Plan(0)),
    Case("multi-step", Plan(3, loss_weights=(0.2, 0.3, 0.5), learn_rates=True)),
    Case("multi-step-primal", Plan(3, activation="tanh", loss_weights=(0.2, 0.0, 0.8)), n=12),
    Case("last-unjudged", Plan(3, loss_weights=(0.5, 0.5, 0.0), learn_rates=True)),
    Case("last-unjudged-primal", Plan(3, activation="tanh", loss_weights=(0.5, 0.5, 0.0)), n=12),
    Case("last-unjudged-matrices", Plan(3, loss_weights=(1.0, 0.0, 0.0), learn_rates=True, rates="matrix")),
    Case("rates", Plan(3, learn_rates=True, activation="tanh")),
    Case("rates-primal", Plan(3, learn_rates=True), n=12),
    Case("rates-first-order", Plan(3, learn_rates=True, order=1)),
    Case("scalar-tensors", Plan(3, learn_rates=True, rates="scalar")),
    Case("scalar-tensors-primal", Plan(2, learn_rates=True, rates="scalar", activation="tanh"), n=12),
    Case("matrices", Plan(3, learn_rates=True, rates="matrix", activation="tanh")),
    Case("matrices-first-order", Plan(3, learn_rates=True, rates="matrix", order=1)),
    Case("head-only", Plan(4, adjoint=True, learn_rates=True), widths=(9, 1)),
    Case("adjoint-deep", Plan(2, adjoint=True, activation="tanh"), widths=(9, 5, 1)),
    Case("two-outputs", Plan(2, activation="tanh", learn_rates=True), widths=(9, 6, 2), likelihood="gaussian_mv"),
    Case("two-outputs-head", Plan(2, adjoint=True), widths=(9, 2), likelihood="gaussian_mv"),
    Case("prior-rows", Plan(2, prior_rows=7.5)),
    Case("one-row", Plan(2), n=1, q=1),
    Case("momentum", Plan(4, momentum=0.7)),
    Case("momentum-primal", Plan(4, momentum=0.7, activation="tanh"), n=12),
    Case("momentum-rates", Plan(3, momentum=0.5, learn_rates=True, loss_weights=(0.2, 0.3, 0.5))),
    Case("momentum-scalars", Plan(3, momentum=0.5, learn_rates=True, rates="scalar", activation="tanh")),
    Case("momentum-matrices", Plan(3, momentum=0.5, learn_rates=True, rates="matrix", activation="tanh")),
    Case("momentum-first-order", Plan(3, momentum=0.5, learn_rates=True, order=1)),
    Case("momentum-head", Plan(4, momentum=0.5, adjoint=True, learn_rates=True), widths=(9, 1)),
    *[
        Case(str(name), Plan(2, activation="tanh"), likelihood=name)
        for name in LIKELIHOODS
        if name not in ("bernoulli", "gaussian_mv")
    ],
]
BY_NAME = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@dataclass
class Problem:
    """One random meta-batch in float64."""

    weights: list[Tensor]
    rates: list[list[Rate]]
    support: Block
    query: Block


def problem(case: Case, seed: int = 0) -> Problem:
    """Random weights, rates of either sign per layer and step, rows with ragged weights."""
    rng = np.random.default_rng(seed)
    widths = case.widths

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape) * scale)

    def block(rows: int) -> Block:
        x = tensor(case.tasks, rows, widths[0] + 1)
        x[..., -1] = 1.0
        drawn = labels(LIKELIHOODS[case.likelihood], case.tasks * rows, int(rng.integers(1_000)))
        y = torch.from_numpy(drawn).view(case.tasks, rows)
        weight = torch.from_numpy(rng.uniform(0.2, 2.0, size=(case.tasks, rows)))
        weight[0, rows // 2 + 1 :] = 0.0
        return Block(x, y, weight, tensor(case.tasks, rows, scale=0.3))

    weights = [tensor(a + 1, b, scale=0.6 / case.widths[-1] ** 2) for a, b in pairwise(widths)]
    rates: list[list[Rate]] = []
    for _ in range(case.plan.steps):
        if case.plan.rates == "number":
            rates.append([float(rng.uniform(0.05, 0.3)) for _ in weights])
        elif case.plan.rates == "scalar":
            rates.append([torch.tensor(rng.uniform(0.05, 0.3)) for _ in weights])
        else:
            rates.append([tensor(*weight.shape, scale=0.1) for weight in weights])
    return Problem(weights, rates, block(case.n), block(case.q))


def unroll(case: Case) -> Unroll:
    return Unroll(
        case.tasks, (case.n, case.q), case.widths, case.plan, LIKELIHOODS[case.likelihood], device=CPU, dtype=F64
    )


def plain_losses(
    case: Case, weights: Sequence[Tensor], rates: Sequence[Sequence[Rate]], support: Block, query: Block
) -> Tensor:
    """The definition, task by task, differentiable by autograd: what every textbook writes."""
    plan, likelihood = case.plan, LIKELIHOODS[case.likelihood]
    activation = {"relu": torch.relu, "tanh": torch.tanh}[plan.activation]

    def eta(theta: Sequence[Tensor], block: Block, task: int) -> Tensor:
        h = block.x[task]
        for layer, weight in enumerate(theta):
            z = h @ weight
            h = torch.cat([activation(z), torch.ones(len(z), 1, dtype=F64)], 1) if layer + 1 < len(theta) else z
        shift = torch.zeros_like(h)
        shift[:, 0] = block.base[task]
        return (h + shift).squeeze(-1) if h.shape[1] == 1 else h + shift

    losses = []
    for task in range(case.tasks):
        theta = list(weights)
        speeds: list[Tensor | float] = [0.0] * len(theta)
        loss = torch.zeros((), dtype=F64)
        for step in range(plan.steps + 1):
            part = float(step == plan.steps)
            if plan.loss_weights is not None:
                part = plan.loss_weights[step - 1] if step else 0.0
            if part:
                weight = query.weight[task] / query.weight[task].sum()
                loss = loss + part * (weight * likelihood.loss(eta(theta, query, task), query.y[task])).sum()
            if step < plan.steps:
                weight = support.weight[task] / (support.weight[task].sum() + plan.prior_rows)
                inner = (weight * likelihood.loss(eta(theta, support, task), support.y[task])).sum()
                steps = torch.autograd.grad(inner, theta, create_graph=plan.order == 2)
                speeds = [plan.momentum * v + g for v, g in zip(speeds, steps, strict=True)]
                theta = [w - rate * v for w, rate, v in zip(theta, rates[step], speeds, strict=True)]
        losses.append(loss)
    return torch.stack(losses)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-10) -> None:
    """Relative error in the Euclidean norm; NaN never passes."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm()) <= tolerance * max(float(theirs.norm()), 1e-6)


@BY_NAME
def test_equals_autograd_through_a_plain_loop(case: Case) -> None:
    given = problem(case)
    kernel, other = unroll(case), problem(case, seed=1)
    # a workspace that another batch has filled
    kernel(other.weights, other.rates, other.support, other.query)
    found = kernel(given.weights, given.rates, given.support, given.query)
    weights = [weight.clone().requires_grad_() for weight in given.weights]
    rates = [[torch.as_tensor(rate, dtype=F64).clone().requires_grad_() for rate in row] for row in given.rates]
    support = given.support._replace(x=given.support.x.clone().requires_grad_())
    query = given.query._replace(x=given.query.x.clone().requires_grad_())
    losses = plain_losses(case, weights, rates, support, query)
    close(found.losses, losses.detach())
    leaves = [*weights, *(rate for row in rates for rate in row), support.x, query.x]
    wanted = list(torch.autograd.grad(losses.mean(), leaves, allow_unused=True))
    for ours in found.weights:
        theirs = wanted.pop(0)
        assert theirs is not None
        close(ours, theirs)
    if case.plan.learn_rates:
        for ours in (gradient for row in found.rates for gradient in row):
            theirs = wanted.pop(0)
            close(ours, torch.zeros_like(ours) if theirs is None else theirs)
    if case.plan.adjoint:
        for adjoint, theirs in zip((found.support, found.query), wanted[-2:], strict=True):
            assert adjoint is not None
            assert theirs is not None
            close(adjoint, theirs[..., :-1])


@pytest.mark.parametrize("case", [case for case in CASES if case.plan.order == 2], ids=lambda case: case.name)
def test_equals_central_differences(case: Case) -> None:
    """Along random directions of all weights; tanh or a step too short to cross a kink."""
    given = problem(case, seed=1)
    kernel = unroll(case)
    found = kernel(given.weights, given.rates, given.support, given.query)
    rng = np.random.default_rng(2)
    for _ in range(3):
        direction = [torch.from_numpy(rng.normal(size=weight.shape)) for weight in given.weights]
        up, down = (
            kernel(
                [w + sign * 1e-6 * d for w, d in zip(given.weights, direction, strict=True)],
                given.rates,
                given.support,
                given.query,
            ).losses.mean()
            for sign in (1, -1)
        )
        slope = sum(float((g * d).sum()) for g, d in zip(found.weights, direction, strict=True))
        assert float(up - down) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_orders_differ_so_a_mix_up_is_caught() -> None:
    case = Case("orders", Plan(5), n=16, q=64, widths=(64, 64, 64, 1), tasks=4)
    given = problem(case)
    given.weights = [weight * 0.4 for weight in given.weights]
    second, first = (
        torch.cat(
            [
                g.flatten()
                for g in unroll(replace(case, plan=replace(case.plan, order=order)))(
                    given.weights, given.rates, given.support, given.query
                ).weights
            ]
        )
        for order in (2, 1)
    )
    assert float((second - first).norm() / second.norm()) > 0.1
    autograd = [weight.requires_grad_() for weight in given.weights]
    wanted = torch.autograd.grad(plain_losses(case, autograd, given.rates, given.support, given.query).mean(), autograd)
    close(second, torch.cat([g.flatten() for g in wanted]))


@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.7), (0.5, 0.5, 0.0)])
def test_a_workspace_can_be_used_again(weights: tuple[float, ...]) -> None:
    case = Case("again", Plan(3, loss_weights=weights, learn_rates=True))
    kernel = unroll(case)
    one, two = problem(case, 3), problem(case, 4)
    before = kernel(one.weights, one.rates, one.support, one.query)
    kernel(two.weights, two.rates, two.support, two.query)
    after = kernel(one.weights, one.rates, one.support, one.query)
    assert torch.equal(before.losses, after.losses)
    assert all(torch.equal(a, b) for a, b in zip(before.weights, after.weights, strict=True))


def test_empty_support_is_the_start_and_empty_query_teaches_nothing() -> None:
    case = Case("empty", Plan(3))
    given = problem(case)
    support_weight, query_weight = given.support.weight.clone(), given.query.weight.clone()
    support_weight[1] = 0.0
    query_weight[2] = 0.0
    found = unroll(case)(
        given.weights,
        given.rates,
        given.support._replace(weight=support_weight),
        given.query._replace(weight=query_weight),
    )
    still = unroll(replace(case, plan=Plan(0)))(given.weights, [], given.support, given.query)
    assert float(found.losses[1]) == pytest.approx(float(still.losses[1]), rel=1e-12)
    assert float(found.losses[2]) == 0.0
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found.weights)


def test_padded_rows_change_nothing() -> None:
    case = Case("padded", Plan(3, activation="tanh"), n=6, q=5)
    given = problem(case)
    found = unroll(case)(given.weights, given.rates, given.support, given.query)
    rows = torch.cat([torch.full((3, 2, 9), 1e3, dtype=F64), torch.ones(3, 2, 1, dtype=F64)], 2)
    padded = Block(
        torch.cat([given.support.x, rows], 1),
        torch.cat([given.support.y, torch.ones(3, 2, dtype=F64)], 1),
        torch.cat([given.support.weight, torch.zeros(3, 2, dtype=F64)], 1),
        torch.cat([given.support.base, torch.zeros(3, 2, dtype=F64)], 1),
    )
    other = unroll(replace(case, n=8))(given.weights, given.rates, padded, given.query)
    for a, b in zip(found.weights, other.weights, strict=True):
        close(a, b, 1e-12)


@pytest.mark.parametrize("what", ["shape", "dtype", "device", "layers", "steps"])
def test_wrong_input_says_what_was_expected_and_what_came(what: str) -> None:
    case = Case("wrong", Plan(2))
    given = problem(case)
    words = {
        "shape": r"query.x: expected .*\(3, 5, 10\).* got .*\(3, 4, 10\)",
        "dtype": r"support.x: expected .*float64.* got .*float32",
        "device": r"support.y: expected .*cpu.* got .*meta",
        "layers": "expected 3 weights and rates of 2 steps, got 2 and 2",
        "steps": "expected 3 weights and rates of 2 steps, got 3 and 1",
    }[what]
    if what == "shape":
        given.query = given.query._replace(x=given.query.x[:, :4])
    elif what == "dtype":
        given.support = given.support._replace(x=given.support.x.float())
    elif what == "device":
        given.support = given.support._replace(y=given.support.y.to("meta"))
    elif what == "layers":
        given.weights = given.weights[:2]
    else:
        given.rates = given.rates[:1]
    with pytest.raises(ModelError, match=words):
        unroll(case)(given.weights, given.rates, given.support, given.query)


def test_more_steps_than_memory_allows_is_refused() -> None:
    free = free_memory(CPU)
    assert free is not None
    steps = free // (32 * 64 * 64 * 8)
    words = r"inner steps .* need .* GiB, .* GiB are free.*use at most \d+ inner steps, fewer tasks a meta-batch, or"
    with pytest.raises(ModelError, match=words):
        Unroll(32, (16, 64), (64, 64, 64, 1), Plan(steps), LIKELIHOODS["bernoulli"], device=CPU, dtype=F64)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4096 kB"}, 4 * 2**20),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, None),
        (
            {
                "proc/self/cgroup": "0::/a.slice/job",
                "sys/fs/cgroup/a.slice/memory.max": "800",
                "sys/fs/cgroup/a.slice/memory.current": "500",
                "sys/fs/cgroup/a.slice/memory.stat": "anon 5\nactive_file 20\ninactive_file 30",
                "sys/fs/cgroup/a.slice/job/memory.max": "max",
            },
            350,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 1 kB",
                "proc/self/cgroup": "5:cpu:/docker/x\n4:memory:/docker/x\n0::/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "700",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "600",
                "sys/fs/cgroup/memory/memory.stat": "active_file 1\ntotal_active_file 40\ntotal_inactive_file 2",
            },
            142,
        ),
    ],
    ids=["not Linux", "no group", "no limit", "v2", "v1"],
)
def test_free_memory_is_the_least_of_the_machine_and_its_groups(
    files: dict[str, str], wanted: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(CPU, tmp_path) == wanted
