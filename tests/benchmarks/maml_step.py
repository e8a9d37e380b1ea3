"""A second-order MAML step of 32 tasks against TorchOpt's loop over tasks, and against the time of its products alone.

Shape: 16 support and 64 query rows a task, 64 inputs, two hidden layers of 64, one output, 5 inner steps, float32.

learn2learn, whose loop is of the same kind, is no peer here: its 0.2.0 does not build on Python 3.11 or later (its C
sources include longintrepr.h, which is gone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torchopt
from torch import Tensor, nn

from metarisk.learners.kernels.adapting import ActivationName
from metarisk.learners.kernels.plan import Plan
from metarisk.learners.kernels.unroll import Unroll
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.packing import Block
from tests.benchmarks.harness import SGEMM_FLOPS, Figure, interleaved, main, sgemm

TASKS, SUPPORT, QUERY, STEPS, RATE = 32, 16, 64, 5, 0.05
WIDTHS = (64, 64, 64, 1)


def flops(tasks: int = TASKS, support: int = SUPPORT, query: int = QUERY, steps: int = STEPS) -> int:
    """Operations of the plain algorithm: products only, first layer without a delta for its inputs.

    Inner gradient: forward, delta, weights. Hessian-vector product: forward and delta twice, weights twice (first
    layer once, its inputs being constant). Query: one gradient.
    """
    first, rest = WIDTHS[0] * WIDTHS[1], sum(a * b for a, b in pairwise(WIDTHS[1:]))
    gradient = 2 * (2 * first + 3 * rest)
    product = 2 * (2 * first + 6 * rest)
    return tasks * (steps * support * (gradient + product) + query * gradient)


def episode(tasks: int = TASKS, support: int = SUPPORT, query: int = QUERY) -> tuple[list[Tensor], Block, Block]:
    """Weights and a meta-batch, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def block(rows: int) -> Block:
        x = torch.randn(tasks, rows, WIDTHS[0] + 1, generator=generator)
        x[..., -1] = 1.0
        y = (torch.rand(tasks, rows, generator=generator) < 0.3).float()
        return Block(x, y, torch.ones(tasks, rows), torch.zeros(tasks, rows))

    weights = [torch.randn(a + 1, b, generator=generator) * (2 / a) ** 0.5 for a, b in pairwise(WIDTHS)]
    return weights, block(support), block(query)


def ours(
    activation: ActivationName = "relu",
    *,
    tasks: int = TASKS,
    support: int = SUPPORT,
    steps: int = STEPS,
    order: int = 2,
) -> Callable[[], list[Tensor]]:
    """The batched, hand-derived step."""
    weights, given, judged = episode(tasks, support)
    plan = Plan(steps, activation, order=1 if order == 1 else 2)
    kernel = Unroll(
        tasks,
        (support, QUERY),
        WIDTHS,
        plan,
        LIKELIHOODS["bernoulli"],
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    rates = [[RATE] * len(weights)] * steps
    return torch.no_grad()(lambda: kernel(weights, rates, given, judged).weights)


def theirs(activation: ActivationName = "relu") -> Callable[[], list[Tensor]]:
    """TorchOpt's differentiable SGD, task by task, as its MAML example does; the same network and rows."""
    weights, given, judged = episode()
    layers: list[nn.Module] = []
    for weight in weights:
        linear = nn.Linear(weight.shape[0] - 1, weight.shape[1])
        with torch.no_grad():
            linear.weight.copy_(weight[:-1].T)
            linear.bias.copy_(weight[-1])
        layers += [linear, nn.ReLU() if activation == "relu" else nn.Tanh()]
    network = nn.Sequential(*layers[:-1])
    inner = torchopt.MetaSGD(network, lr=RATE)
    loss = nn.functional.binary_cross_entropy_with_logits

    def run() -> list[Tensor]:
        network.zero_grad()
        network_state = torchopt.extract_state_dict(network, by="reference")
        inner_state = torchopt.extract_state_dict(inner, by="reference")
        losses = []
        for task in range(TASKS):
            for _ in range(STEPS):
                inner.step(loss(network(given.x[task, :, :-1]).squeeze(-1), given.y[task]))
            losses.append(loss(network(judged.x[task, :, :-1]).squeeze(-1), judged.y[task]))
            torchopt.recover_state_dict(network, network_state)
            torchopt.recover_state_dict(inner, inner_state)
        torch.stack(losses).mean().backward()
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        return [torch.cat([layer.weight.grad.T, layer.bias.grad.unsqueeze(0)]) for layer in linears]

    return run


def benchmark(quick: bool) -> Sequence[Figure]:
    """Both activations, both orders, and the growth with tasks, rows and steps."""
    figures = []
    for activation in ("relu", "tanh"):
        kernel, loop = ours(activation), theirs(activation)
        worst = max(float((a - b).norm() / b.norm()) for a, b in zip(kernel(), loop(), strict=True))
        runs = {"kernel": kernel, "torchopt": loop, "sgemm": sgemm()}
        seconds = interleaved(runs, 8 if quick else 40)
        floor = flops() / (SGEMM_FLOPS / seconds["sgemm"])
        name = f"maml_step.{activation}"
        speedup = seconds["torchopt"] / seconds["kernel"]
        figures += [
            Figure(f"{name}", seconds["kernel"] * 1e3, "ms", seconds["kernel"] / floor, "FLOP floor", 2.7, 1.8),
            Figure(f"{name}.faster", seconds["torchopt"] * 1e3, "ms of TorchOpt", speedup, "ours", 7, 11, more=True),
            Figure(f"{name}.difference", worst, "relative, float32 meta-gradient", reach=1e-3, aim=1e-4),
        ]
    figures.append(Figure("sgemm", SGEMM_FLOPS / seconds["sgemm"] / 1e9, "GFLOP/s"))
    return figures


if __name__ == "__main__":
    main(benchmark)
