"""The meta-gradient through the inner loop against TorchOpt's differentiable SGD, on the same episode."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from metarisk.learners.kernels.adapting import ActivationName
from metarisk.learners.kernels.plan import Plan
from metarisk.learners.kernels.unroll import Unroll
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.packing import Block

torchopt = pytest.importorskip("torchopt", reason="a development dependency")

TASKS, ROWS, WIDTHS, STEPS, RATE = 4, (16, 64), (10, 12, 9, 1), 5, 0.3


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("support_rows", [6, 20])
def test_meta_gradient_equals_torchopt(activation: ActivationName, support_rows: int) -> None:
    """To 1e-10 relative in float64, with both forms of the first layer."""
    generator = torch.Generator().manual_seed(1)

    def block(rows: int) -> Block:
        x = torch.randn(TASKS, rows, WIDTHS[0] + 1, generator=generator, dtype=torch.float64)
        x[..., -1] = 1.0
        y = (torch.rand(TASKS, rows, generator=generator) < 0.4).double()
        return Block(x, y, torch.ones_like(y), torch.zeros_like(y))

    support, query = block(support_rows), block(ROWS[1])
    weights = [torch.randn(a + 1, b, generator=generator, dtype=torch.float64) / 2 for a, b in pairwise(WIDTHS)]
    kernel = Unroll(
        TASKS,
        (support_rows, ROWS[1]),
        WIDTHS,
        Plan(STEPS, activation),
        LIKELIHOODS["bernoulli"],
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    ours = kernel(weights, [[RATE] * 3] * STEPS, support, query)

    layers: list[nn.Module] = []
    for weight in weights:
        linear = nn.Linear(weight.shape[0] - 1, weight.shape[1], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight[:-1].T)
            linear.bias.copy_(weight[-1])
        layers += [linear, nn.ReLU() if activation == "relu" else nn.Tanh()]
    network = nn.Sequential(*layers[:-1])
    inner = torchopt.MetaSGD(network, lr=RATE)
    loss = nn.functional.binary_cross_entropy_with_logits
    network_state = torchopt.extract_state_dict(network, by="reference")
    inner_state = torchopt.extract_state_dict(inner, by="reference")
    losses = []
    for task in range(TASKS):
        for _ in range(STEPS):
            inner.step(loss(network(support.x[task, :, :-1]).squeeze(-1), support.y[task]))
        losses.append(loss(network(query.x[task, :, :-1]).squeeze(-1), query.y[task]))
        torchopt.recover_state_dict(network, network_state)
        torchopt.recover_state_dict(inner, inner_state)
    torch.stack(losses).mean().backward()

    assert torch.allclose(ours.losses, torch.stack(losses).detach(), rtol=1e-12)
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    for found, linear in zip(ours.weights, linears, strict=True):
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        wanted = torch.cat([linear.weight.grad.T, linear.bias.grad.unsqueeze(0)])
        assert float((found - wanted).norm()) <= 1e-10 * float(wanted.norm())
