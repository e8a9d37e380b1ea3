"""Prototypical networks: a segment is the mean embedding of its events and of its non-events.

Snell, Swersky and Zemel (2017), arXiv 1703.05175, made fit for imbalanced classes and thin support.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array
from metarisk.learners.loop import Parameters
from metarisk.learners.metric.learner import MetricLearner, evidence
from metarisk.learners.packing import Block


@dataclass(frozen=True)
class Prototypical(MetricLearner):
    """Correction = level + temperature (|e - p0|^2 - |e - p1|^2).

    The prototype p_c is the mean of class c's embedded support, shrunk to a learned common prototype as if that were
    `pseudo rows` more of the class; a class without support has the common one. The level is the segment's observed
    over expected odds (`metric.evidence`). With normal classes of one variance this is Bayes' rule.

    Adaptation: `prototypes` (S, 2, E), `level` (S,).

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> from metarisk.learners.loop import Loop
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = Prototypical(embedding=2, loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> learner.adapt(state, rows, "bernoulli").arrays["prototypes"].shape
        (2, 2, 2)
    """

    @property
    def keeps_rows(self) -> bool:
        """Two prototypes are all that is kept."""
        return False

    def start(self, rng: np.random.Generator) -> dict[str, Array]:
        """Common prototypes, and the logarithms of the pseudo rows and of the temperature."""
        return {
            "common": np.zeros((2, self.embedding)),
            "log_pseudo_rows": np.full(2, np.log(5.0)),
            "log_temperature": np.array(-np.log(self.embedding)),
        }

    def summarise(self, parameters: Parameters, embedded: Tensor, block: Block, expected: Tensor) -> dict[str, Tensor]:
        """Prototypes (B, 2, E) and level (B,)."""
        weight = torch.stack([block.weight * (1 - block.y), block.weight * block.y], 1)
        pseudo = torch.exp(parameters["log_pseudo_rows"]).unsqueeze(-1)
        total = weight.sum(-1, keepdim=True) + pseudo
        prototypes = (weight @ embedded + pseudo * parameters["common"]) / total
        alike = torch.ones_like(block.weight).unsqueeze(1)
        level = evidence(alike, block, expected, parameters["log_mass"]).squeeze(-1)
        return {"prototypes": prototypes, "level": level}

    def correct(self, parameters: Parameters, summary: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """(B, m)."""
        distance = ((embedded.unsqueeze(2) - summary["prototypes"].unsqueeze(1)) ** 2).sum(-1)
        contrast = distance[..., 0] - distance[..., 1]
        return summary["level"].unsqueeze(-1) + torch.exp(parameters["log_temperature"]) * contrast
