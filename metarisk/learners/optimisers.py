"""Outer optimisers: Adam and SGD with momentum on one flat vector of parameters, in place.

Scalars that change from step to step live in a small tensor on the device, so that a step can be captured once as a
CUDA graph and replayed.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

OptimiserName = Literal["adam", "sgd"]
ScheduleName = Literal["constant", "linear", "cosine"]

_BETA2, _EPSILON = 0.999, 1e-8


def rate_at(schedule: ScheduleName, rate: float, step: int, steps: int) -> float:
    """Outer learning rate of a step (counted from 0): constant, or falling to (almost) zero over all steps."""
    left = 1.0 - step / steps
    if schedule == "linear":
        return rate * left
    if schedule == "cosine":
        return rate * 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
    return rate


class Optimiser:
    """Updates of a flat parameter vector (P,); Adam (arXiv 1412.6980) or SGD with heavy-ball momentum.

    Args:
        name: which of the two.
        parameters: (P,), changed in place by `update`.
        momentum: beta_1 of Adam, or the momentum of SGD.
        clip: longest gradient (Euclidean norm) that is used as it is; a longer one is shortened to it.
    """

    def __init__(self, name: OptimiserName, parameters: Tensor, *, momentum: float, clip: float) -> None:
        self.name, self.parameters, self.momentum, self.clip = name, parameters, momentum, clip
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters)
        self._scalars = torch.zeros(2, dtype=parameters.dtype, device=parameters.device)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold, apart from the step number."""
        return {"parameters": self.parameters, "first": self.first, "second": self.second}

    def prepare(self, step: int, rate: float) -> None:
        """Set the scalars of step `step` (counted from 0)."""
        if self.name == "adam":
            scalars = [rate / (1 - self.momentum ** (step + 1)), 1 / math.sqrt(1 - _BETA2 ** (step + 1))]
        else:
            scalars = [rate, 0.0]
        self._scalars.copy_(torch.tensor(scalars, dtype=self._scalars.dtype))

    def update(self, gradient: Tensor) -> None:
        """One step along the gradient (P,), which is shortened in place if it is too long."""
        rate, correction = self._scalars[0], self._scalars[1]
        gradient.mul_(self.clip / gradient.norm().clamp_min(self.clip))
        if self.name == "adam":
            self.first.lerp_(gradient, 1 - self.momentum)
            self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            self.parameters.sub_(self.first / (self.second.sqrt() * correction + _EPSILON) * rate)
        else:
            self.first.mul_(self.momentum).add_(gradient)
            self.parameters.sub_(self.first * rate)
