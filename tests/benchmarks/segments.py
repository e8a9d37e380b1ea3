"""The ragged book of 2,000 segments that several benchmarks share."""

from __future__ import annotations

import numpy as np
import torch

from metarisk.domain import Packed
from metarisk.learners.gradient.maml import Maml

WIDTHS = (64, 64, 64, 1)
STEPS, RATE = 10, 0.05


def learner() -> Maml:
    """The standard shape: 64 inputs, two hidden layers of 64, 10 steps at adaptation."""
    return Maml(hidden=(64, 64), inner_rate=RATE, adapt_steps=STEPS)


def state() -> dict[str, np.ndarray]:
    """Random weights in the learner's form, without training."""
    start = learner()._start(WIDTHS, 0)
    rng = np.random.default_rng(1)
    start["weight2"] = rng.normal(size=start["weight2"].shape) / 8
    arrays = {name: value.astype(np.float32) for name, value in start.items()}
    return {**arrays, "base": np.array([0.0, 1.0]), "class_weight": np.ones(1)}


def book(segments: int = 2_000, rows: int = 268_000, seed: int = 0) -> Packed:
    """Segments of log-normal size, `rows` in all, standard normal features."""
    rng = np.random.default_rng(seed)
    shares = rng.lognormal(sigma=1.0, size=segments)
    sizes = np.floor(shares / shares.sum() * rows).astype(np.int64)
    sizes[np.argmax(sizes)] += rows - sizes.sum()
    starts = np.concatenate([[0], np.cumsum(sizes)])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTHS[0], generator=generator).numpy()
    y = (torch.rand(rows, generator=generator) < 0.1).float().numpy()
    zeros = np.zeros(rows, dtype=np.float32)
    keys = tuple((f"segment {i}",) for i in range(segments))
    return Packed(keys, starts, x, y, np.ones(rows, dtype=np.float32), zeros)
