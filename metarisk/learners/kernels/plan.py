"""What an unrolled inner loop is asked for and gives; the kernels are in `unroll`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from metarisk.learners.kernels.adapting import ActivationName

Rate = float | Tensor
"""Inner learning rate of one layer: a number, a tensor without dimensions, or one of the shape of its weights."""


@dataclass(frozen=True)
class Plan:
    """What the inner loop does.

    Attributes:
        steps: inner gradient steps K; 0 trains one model for all tasks.
        activation: between layers.
        order: 2 differentiates through the inner loop; 1 takes the gradient at its end for the meta-gradient.
        loss_weights: weight of the query loss after each step 1..K (MAML++); None: the last alone.
        learn_rates: also return gradients with respect to the inner rates.
        adjoint: also return gradients with respect to the inputs (for a body below that is not adapted).
        prior_rows: pseudo-rows added to a task's total support weight, which shrink the steps of thin tasks.
        rates: what a layer's rate is: a number, a tensor without dimensions (on a GPU, where reading a learned number
            would wait), or a matrix of one rate a parameter.
        momentum: mu of the inner steps: v becomes mu v + gradient, and weights fall by the rate times v (Polyak 1964).
    """

    steps: int
    activation: ActivationName = "relu"
    order: Literal[1, 2] = 2
    loss_weights: tuple[float, ...] | None = None
    learn_rates: bool = False
    adjoint: bool = False
    prior_rows: float = 0.0
    rates: Literal["number", "scalar", "matrix"] = "number"
    momentum: float = 0.0

    @property
    def keeps_gradients(self) -> bool:
        """Whether steps form their gradients (with momentum: velocities) as matrices, beside the weights."""
        return self.rates != "number" or self.momentum > 0


class Unrolled(NamedTuple):
    """What one meta-batch gives; all gradients are of the mean of `losses` over the tasks.

    Attributes:
        losses: (B,) query loss of each task, weighted over steps as the plan says.
        weights: gradient of each weight matrix.
        rates: gradient of each rate, [step][layer], in the shape of the rate; empty unless the plan learns them.
        support, query: gradients of the inputs without their ones, (B, n, D) and (B, q, D), or None.
    """

    losses: Tensor
    weights: list[Tensor]
    rates: list[list[Tensor]]
    support: Tensor | None
    query: Tensor | None


def normalised(weight: Tensor, prior_rows: float = 0.0) -> Tensor:
    """Row weights (B, n) that sum to one in each task, or to less with pseudo-rows; zeros where a task has no rows."""
    total = weight.sum(-1, keepdim=True).add_(prior_rows)
    return weight / total.masked_fill_(total == 0, 1.0)
