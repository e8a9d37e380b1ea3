"""MAML and its variants, which are one algorithm with other settings: the meta-gradient through the inner loop.

MAML arXiv 1703.03400, first order 1803.02999, ANIL 1909.09157, Meta-SGD 1707.09835, MAML++ 1810.09502.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from metarisk.domain import Episodes, LikelihoodName
from metarisk.learners.gradient.mlp import GradientLearner, RateKind
from metarisk.learners.kernels.adapting import ACTIVATIONS
from metarisk.learners.kernels.plan import Plan, Rate
from metarisk.learners.kernels.unroll import Unroll
from metarisk.learners.loop import Draw, Gradient, Parameters
from metarisk.learners.options import require_choice, require_range
from metarisk.learners.packing import Block, Store

Order = Literal[1, 2]
Adapted = Literal["all", "head"]


@dataclass(frozen=True)
class Maml(GradientLearner):
    """Learns a start from which a few gradient steps on a segment's support rows do well on its query rows.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> from metarisk.learners.loop import Loop
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = Maml(hidden=(8,), loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> sorted(learner.adapt(state, rows, "bernoulli").arrays)
        ['weight0', 'weight1']
    """

    order: Order = 2
    """2 differentiates through the inner steps; 1 takes the query gradient at their end (FOMAML)."""
    adapted: Adapted = "all"
    """Layers that the inner loop moves; `head` is ANIL."""
    multi_step: float = 0.0
    """Share of the query loss that falls on the steps before the last, equally (MAML++)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("order", self.order, get_args(Order))
        require_choice("adapted", self.adapted, get_args(Adapted))
        require_range("multi_step", self.multi_step, least=0, most=1)

    @property
    def frozen(self) -> int:
        return len(self.hidden) if self.adapted == "head" else 0

    def gradient_of(self, tasks: Episodes, widths: tuple[int, ...], likelihood: LikelihoodName, seed: int) -> Gradient:
        return _MetaGradient(self, tasks, widths, likelihood)


@dataclass(frozen=True)
class Fomaml(Maml):
    """First-order MAML.

    >>> Fomaml().order
    1
    """

    order: Order = 1


@dataclass(frozen=True)
class Anil(Maml):
    """Almost no inner loop: only the head is adapted, the body is shared.

    >>> Anil().adapted
    'head'
    """

    adapted: Adapted = "head"


@dataclass(frozen=True)
class MetaSgd(Maml):
    """MAML with a learned inner rate for every parameter.

    >>> MetaSgd().rates
    'parameter'
    """

    rates: RateKind = "parameter"


@dataclass(frozen=True)
class MamlPlusPlus(Maml):
    """MAML with learned rates per step and layer, and part of the loss on every step.

    >>> MamlPlusPlus().rates
    'step_layer'
    """

    rates: RateKind = "step_layer"
    multi_step: float = 0.5


class _MetaGradient:
    """Losses and meta-gradients of a draw: tasks live on the device, workspaces are kept by meta-batch size."""

    def __init__(self, learner: Maml, tasks: Episodes, widths: tuple[int, ...], likelihood: LikelihoodName) -> None:
        self.learner, self.widths, self.likelihood = learner, widths, learner.likelihood(likelihood)
        loop = learner.loop
        self.device, self.dtype = loop.target, loop.dtype
        self.support, self.query = (
            Store(part, device=self.device, dtype=self.dtype, intercept=True) for part in (tasks.support, tasks.query)
        )
        self.rows = (
            max(1, min(learner.support_rows, self.support.longest)),
            max(1, min(learner.query_rows, self.query.longest)),
        )
        steps = learner.inner_steps
        early = learner.multi_step / (steps - 1) if steps > 1 else 0.0
        learned = learner.rates != "fixed"
        self.plan = Plan(
            steps,
            learner.activation,
            learner.order,
            loss_weights=(early,) * (steps - 1) + (1.0 - early * (steps - 1),) if early else None,
            learn_rates=learned,
            adjoint=learner.frozen > 0,
            prior_rows=learner.prior_rows,
            rates="matrix"
            if learner.rates == "parameter"
            else ("scalar" if learned and self.device.type == "cuda" else "number"),
            momentum=learner.inner_momentum,
        )
        self.workspaces: dict[int, Unroll] = {}

    def __call__(self, parameters: Parameters, draw: Draw) -> tuple[Tensor, Parameters]:
        support = self.support.block(draw.tasks, draw.offset[:, 0], self.rows[0])
        query = self.query.block(draw.tasks, draw.offset[:, 1], self.rows[1])
        frozen, layers = self.learner.frozen, len(self.widths) - 1
        names = [f"weight{layer}" for layer in range(layers)]
        body = [parameters[name] for name in names[:frozen]]
        head = [parameters[name] for name in names[frozen:]]
        if frozen:
            body, (support_features, query_features) = self._features(body, (support, query))
            support = support._replace(x=support_features.detach())
            query = query._replace(x=query_features.detach())
        found = self._workspace(len(draw.tasks))(head, self._rates(parameters, layers - frozen), support, query)
        gradients = dict(zip(names[frozen:], found.weights, strict=True))
        if frozen:
            # The gradient of the column of ones ends there.
            adjoints = [torch.nn.functional.pad(a, (0, 1)) for a in (found.support, found.query) if a is not None]
            below = torch.autograd.grad([support_features, query_features], body, adjoints)
            gradients |= dict(zip(names[:frozen], below, strict=True))
        return found.losses, gradients | self._rate_gradients(found.rates, frozen)

    def _features(self, body: list[Tensor], blocks: tuple[Block, Block]) -> tuple[list[Tensor], list[Tensor]]:
        """Leaves of the shared body, and both blocks' inputs of the head, differentiable in them."""
        apply = ACTIVATIONS[self.learner.activation].smooth
        leaves = [weight.detach().requires_grad_() for weight in body]
        features = []
        with torch.enable_grad():
            for block in blocks:
                h = block.x.flatten(0, 1)
                for weight in leaves:
                    h = torch.nn.functional.pad(apply(h @ weight), (0, 1), value=1.0)
                features.append(h.view(*block.y.shape, -1))
        return leaves, features

    def _workspace(self, tasks: int) -> Unroll:
        if tasks not in self.workspaces:
            self.workspaces[tasks] = Unroll(
                tasks,
                self.rows,
                self.widths[self.learner.frozen :],
                self.plan,
                self.likelihood,
                device=self.device,
                dtype=self.dtype,
            )
        return self.workspaces[tasks]

    def _rates(self, parameters: Parameters, live: int) -> list[list[Rate]]:
        """Learned rates are multiples of the learner's, so that outer steps change them in proportion."""
        steps, rate = self.plan.steps, float(self.learner.inner_rate)
        if self.plan.rates == "matrix":
            frozen = self.learner.frozen
            return [[rate * parameters[f"rate{frozen + layer}"] for layer in range(live)]] * steps
        if not self.plan.learn_rates:
            return [[rate] * live] * steps
        learned = rate * parameters["rate"]
        if self.plan.rates == "number":
            return [list(row) for row in learned.tolist()]
        return [list(row.unbind()) for row in learned.unbind()]

    def _rate_gradients(self, found: list[list[Tensor]], frozen: int) -> dict[str, Tensor]:
        if not found:
            return {}
        rate = float(self.learner.inner_rate)
        if self.plan.rates == "matrix":
            columns = zip(*found, strict=True)
            return {f"rate{frozen + layer}": rate * torch.stack(steps).sum(0) for layer, steps in enumerate(columns)}
        return {"rate": rate * torch.stack([torch.stack(row) for row in found])}
