"""Siamese networks: an embedding that learns whether two rows of a task share their class.

Koch, Zemel and Salakhutdinov (2015), ICML deep learning workshop (pair loss); Hadsell, Chopra and LeCun (2006), CVPR
(contrastive loss).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from metarisk.domain import Array
from metarisk.learners.episodic import aligned
from metarisk.learners.loop import Parameters
from metarisk.learners.metric.learner import MetricLearner, evidence
from metarisk.learners.options import require_choice, require_range
from metarisk.learners.packing import Block


@dataclass(frozen=True)
class Siamese(MetricLearner):
    """Correction = evidence under a kernel, the learned probability that two rows share their class.

    The embedding learns from pairs of a query and a support row, both kinds of equal pairs and the unequal ones each of
    the same total weight, so that rare events count; and from the log-loss of query rows, which also calibrates. With
    few classes the pair loss alone learns to verify the classes it saw, and not the next one.

    Adaptation: `embedded` (M, E), `y`, `weight` and `expected` (M,), packed by `starts`.

    Attributes:
        pair_loss: "binary" (Koch): cross-entropy of sigmoid(threshold - sum_k scale_k |e_k - f_k|); "contrastive"
            (Hadsell): squared distance of equal pairs, and (margin - distance)^2 of unequal ones that are nearer.
        margin: of the contrastive loss.
        pair_weight: of the pair loss beside the log-loss.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> from metarisk.learners.loop import Loop
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = Siamese(embedding=2, loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> learner.adapt(state, rows, "bernoulli").arrays["embedded"].shape
        (4, 2)
    """

    pair_loss: Literal["binary", "contrastive"] = "binary"
    margin: float = 2.0
    pair_weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("pair_loss", self.pair_loss, ("binary", "contrastive"))
        require_range("margin", self.margin, above=0, below=math.inf)
        require_range("pair_weight", self.pair_weight, least=0, below=math.inf)

    @property
    def keeps_rows(self) -> bool:
        """Every kept support row is compared with."""
        return True

    def start(self, rng: np.random.Generator) -> dict[str, Array]:
        """Scales of the weighted distance, its threshold, the sharpness of the kernel and a shrinkage fit for it."""
        return {
            "log_scale": np.full(self.embedding, -np.log(self.embedding)),
            "threshold": np.array(1.0),
            "log_sharpness": np.array(np.log(5.0)),
            "log_mass": np.array(np.log(0.5)),
        }

    def summarise(self, parameters: Parameters, embedded: Tensor, block: Block, expected: Tensor) -> dict[str, Tensor]:
        """The rows themselves."""
        return {"embedded": embedded, "y": block.y, "weight": block.weight, "expected": expected}

    def correct(self, parameters: Parameters, summary: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """(B, m)."""
        distance = self._distance(parameters, embedded, summary["embedded"])
        kernel = torch.sigmoid(torch.exp(parameters["log_sharpness"]) * (parameters["threshold"] - distance))
        rows = Block(summary["embedded"], summary["y"], summary["weight"], summary["expected"])
        return evidence(kernel, rows, summary["expected"], parameters["log_mass"])

    def extra_loss(self, parameters: Parameters, support: tuple[Tensor, Block], query: tuple[Tensor, Block]) -> Tensor:
        """Loss of all pairs of a query and a support row, the three kinds of pair balanced (B,)."""
        (here, rows), (there, others) = support, query
        equal = others.y.unsqueeze(2) == rows.y.unsqueeze(1)
        both = others.y.unsqueeze(2) + rows.y.unsqueeze(1)
        weight = others.weight.unsqueeze(2) * rows.weight.unsqueeze(1)
        distance = self._distance(parameters, there, here)
        if self.pair_loss == "binary":
            logit = parameters["threshold"] - distance
            loss = torch.where(equal, softplus(-logit), softplus(logit))
        else:
            loss = torch.where(equal, distance**2, torch.relu(self.margin - distance) ** 2)
        total = torch.zeros(len(weight), dtype=loss.dtype, device=loss.device)
        for kind in (0, 1, 2):
            of_kind = weight * (both == kind)
            mass = of_kind.sum((1, 2))
            total = total + (of_kind * loss).sum((1, 2)) / torch.where(mass > 0, mass, torch.ones_like(mass)) / 3
        return self.pair_weight * total

    def _distance(self, parameters: Parameters, one: Tensor, other: Tensor) -> Tensor:
        """(B, m, n): weighted city-block for binary pairs, Euclidean for contrastive ones."""
        if self.pair_loss == "binary":
            scale = torch.exp(parameters["log_scale"])
            return torch.cdist(one * scale, other * scale, p=1.0)
        lengths = (one**2).sum(-1).unsqueeze(2) + (other**2).sum(-1).unsqueeze(1)
        squares = torch.relu(torch.baddbmm(lengths, aligned(one), aligned(other).transpose(1, 2), alpha=-2.0))
        return (squares + 1e-12).sqrt()
