"""Matching networks: attention of a row over the support rows of its segment.

Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra (2016), arXiv 1606.04080; full context embeddings are its
appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array
from metarisk.learners.episodic import aligned
from metarisk.learners.loop import Parameters
from metarisk.learners.metric.learner import MetricLearner, evidence
from metarisk.learners.options import require_choice, require_range
from metarisk.learners.packing import Block


@dataclass(frozen=True)
class Matching(MetricLearner):
    """Correction = evidence under the kernel exp(sharpness (cosine - 1)).

    Without a base score and with no shrinkage the score is the logit of the paper's attention, sum of softmax(cosine)
    over the events; the learned shrinkage adds a slot of attention that holds what the pooled score expects.

    Adaptation: `embedded` (M, E), `y`, `weight` and `expected` (M,), packed by `starts`.

    Attributes:
        context: full context embeddings: support rows are read by a bidirectional LSTM, in canonical order, and a row
            to score by an LSTM that attends to them `reads` times.
        reads: the number of those readings.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> from metarisk.learners.loop import Loop
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = Matching(embedding=2, loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> learner.adapt(state, rows, "bernoulli").arrays["embedded"].shape
        (4, 2)
    """

    context: bool = False
    reads: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("context", self.context, (False, True))
        require_range("reads", self.reads, least=1)

    @property
    def keeps_rows(self) -> bool:
        """Every kept support row is attended to."""
        return True

    def start(self, rng: np.random.Generator) -> dict[str, Array]:
        """Sharpness, a shrinkage fit for it and, for context, LSTMs (inputs + E + 1, 4 E) with the bias as last row."""
        start = {"log_sharpness": np.array(np.log(10.0)), "log_mass": np.array(np.log(0.1))}
        if self.context:
            for name, inputs in (("forward", 1), ("backward", 1), ("read", 2)):
                rows = (inputs + 1) * self.embedding
                weights = rng.normal(size=(rows + 1, 4 * self.embedding)) / np.sqrt(rows)
                weights[-1] = 0.0
                weights[-1, self.embedding : 2 * self.embedding] = 1.0  # a forget gate that starts open
                start[name] = weights
        return start

    def summarise(self, parameters: Parameters, embedded: Tensor, block: Block, expected: Tensor) -> dict[str, Tensor]:
        """The rows, in the context of each other if asked for."""
        if self.context:
            present = (block.weight > 0).to(embedded.dtype).unsqueeze(-1)
            ahead = _sweep(parameters["forward"], embedded, present, range(embedded.shape[1]))
            back = _sweep(parameters["backward"], embedded, present, range(embedded.shape[1] - 1, -1, -1))
            embedded = embedded + ahead + back
        return {"embedded": embedded, "y": block.y, "weight": block.weight, "expected": expected}

    def correct(self, parameters: Parameters, summary: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """(B, m)."""
        support = summary["embedded"]
        if self.context:
            embedded = self._read(parameters["read"], embedded, support, summary["weight"])
        cosine = aligned(_unit(embedded)) @ aligned(_unit(support)).transpose(1, 2)
        kernel = torch.exp(torch.exp(parameters["log_sharpness"]) * (cosine - 1))
        rows = Block(support, summary["y"], summary["weight"], summary["expected"])
        return evidence(kernel, rows, summary["expected"], parameters["log_mass"])

    def _read(self, weights: Tensor, embedded: Tensor, support: Tensor, weight: Tensor) -> Tensor:
        """Embedding (B, m, E) after attending to the support (B, n, E) `reads` times."""
        absent = torch.where(weight > 0, 0.0, -1e9).to(embedded.dtype).unsqueeze(1)
        none = (weight > 0).any(1).to(embedded.dtype)[:, None, None]
        hidden, cell, wide = embedded, torch.zeros_like(embedded), aligned(support)
        for _ in range(self.reads):
            attention = torch.softmax(aligned(hidden) @ wide.transpose(1, 2) + absent, -1) * none
            state = torch.cat([hidden, (attention @ wide)[..., : self.embedding]], -1)
            hidden, cell = _lstm(weights, embedded, state, cell)
            hidden = hidden + embedded
        return hidden


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-12).sqrt()


def _lstm(weights: Tensor, x: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: new hidden state and cell (..., E)."""
    gates = torch.cat([x, state], -1) @ weights[:-1] + weights[-1]
    enter, forget, leave, value = gates.chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(value)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def _sweep(weights: Tensor, x: Tensor, present: Tensor, order: range) -> Tensor:
    """Hidden states (B, n, E) of an LSTM along the rows (B, n, E); absent rows are passed over."""
    hidden = cell = torch.zeros_like(x[:, 0])
    states: list[Tensor] = [hidden] * x.shape[1]
    for row in order:
        keep = present[:, row]
        new_hidden, new_cell = _lstm(weights, x[:, row], hidden, cell)
        hidden, cell = keep * new_hidden + (1 - keep) * hidden, keep * new_cell + (1 - keep) * cell
        states[row] = hidden
    return torch.stack(states, 1)
