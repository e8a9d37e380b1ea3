"""Reptile: the start moves towards where plain training on a task ends (arXiv 1803.02999).

The inner loop sees fresh rows of the task in every step, support and query alike, and no second derivative is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from metarisk.domain import ConfigError, Episodes, LikelihoodName
from metarisk.learners.gradient.mlp import GradientLearner
from metarisk.learners.kernels.adapting import ACTIVATIONS
from metarisk.learners.kernels.plan import normalised
from metarisk.learners.loop import Draw, Gradient, Loop, Parameters
from metarisk.learners.options import require_choice
from metarisk.learners.packing import Block, Store

Form = Literal["batched", "serial"]


@dataclass(frozen=True)
class Reptile(GradientLearner):
    """Learns a start that is close to the optima of all segments; outer rate = the paper's step size epsilon.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = Reptile(hidden=(8,), loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> sorted(learner.adapt(state, rows, "bernoulli").arrays)
        ['weight0', 'weight1']
    """

    form: Form = "batched"
    """`batched` averages over the tasks of a meta-batch; `serial` moves after each task, so a step is one task."""
    loop: Loop = field(default_factory=lambda: Loop(optimiser="sgd", momentum=0.0, rate=0.1, schedule="linear"))

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("form", self.form, get_args(Form))
        if self.rates != "fixed":
            raise ConfigError(f"Reptile cannot learn rates, got rates = {self.rates}", remedy="use maml_plus_plus")
        if self.form == "serial":
            object.__setattr__(self, "loop", replace(self.loop, meta_batch=1))

    def gradient_of(self, tasks: Episodes, widths: tuple[int, ...], likelihood: LikelihoodName, seed: int) -> Gradient:
        loss, device, dtype = self.likelihood(likelihood), self.loop.target, self.loop.dtype
        activation = ACTIVATIONS[self.activation]
        stores = [Store(part, device=device, dtype=dtype, intercept=True) for part in (tasks.support, tasks.query)]
        rows = [max(1, min(self.support_rows, store.longest)) for store in stores]

        def gradient(parameters: Parameters, draw: Draw) -> tuple[Tensor, Parameters]:
            start = [parameters[f"weight{layer}"] for layer in range(len(widths) - 1)]
            weights = [weight.expand(len(draw.tasks), -1, -1) for weight in start]
            losses, speeds = torch.zeros(0), [torch.zeros_like(weight) for weight in start]
            for step in range(max(self.inner_steps, 1)):
                offset = (draw.offset + 0.618034 * step) % 1.0
                blocks = [s.block(draw.tasks, offset[:, i], rows[i]) for i, s in enumerate(stores)]
                block = Block(*(torch.cat(parts, 1) for parts in zip(*blocks, strict=True)))
                share = normalised(block.weight, self.prior_rows)
                hidden, eta = _forward(weights, block, activation.smooth)
                losses = (loss.loss(eta, block.y) * share).sum(-1)
                delta = (loss.gradient(eta, block.y).view(*share.shape, -1)) * share.unsqueeze(-1)
                for layer in range(len(weights) - 1, -1, -1):
                    above, weight = delta, weights[layer]
                    if layer:
                        delta = above @ weight[:, :-1].mT
                        activation.pull(delta, hidden[layer][..., :-1], delta)
                    speeds[layer] = self.inner_momentum * speeds[layer] + hidden[layer].mT @ above
                    weights[layer] = weight - self.inner_rate * speeds[layer]
            return losses, {
                f"weight{layer}": begin - end.mean(0)
                for layer, (begin, end) in enumerate(zip(start, weights, strict=True))
            }

        return gradient


def _forward(weights: list[Tensor], block: Block, apply: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
    """Inputs of each layer (B, n, in + 1), and scores in the likelihood's shape."""
    hidden, z = [block.x], block.x
    for layer, weight in enumerate(weights):
        z = hidden[-1] @ weight
        if layer + 1 < len(weights):
            hidden.append(torch.nn.functional.pad(apply(z), (0, 1), value=1.0))
    z[..., 0] += block.base
    return hidden, z.squeeze(-1) if z.shape[-1] == 1 else z
