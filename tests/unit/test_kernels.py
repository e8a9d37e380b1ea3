"""Adapting and scoring ragged segments against plain loops, in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from metarisk.domain import Array, LikelihoodName, Packed
from metarisk.learners.kernels import adapting as kernels
from metarisk.learners.kernels.adapting import ActivationName, adapt_segments
from metarisk.learners.kernels.scoring import networks, score_rows
from metarisk.learners.likelihoods import LIKELIHOODS
from tests.unit.test_likelihoods import labels

SMALL, LARGE = (1, 4, 0, 7, 9, 2), (20, 33, 0, 14, 90)
"""Sizes below and above twice the features, where the first layer moves through the Gram matrix and where not."""


def ragged(sizes: tuple[int, ...], features: int, y: Array, rng: np.random.Generator) -> Packed:
    n = sum(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    keys = tuple((str(i),) for i in range(len(sizes)))
    return Packed(keys, starts, rng.normal(size=(n, features)), y, rng.uniform(0.2, 2.0, n), 0.3 * rng.normal(size=n))


def plain_outputs(layers: list[Tensor], x: Tensor, base: Tensor, activation: ActivationName) -> Tensor:
    h = x
    for number, weight in enumerate(layers):
        z = h @ weight[:-1] + weight[-1]
        h = z if number + 1 == len(layers) else getattr(torch, activation)(z)
    return torch.cat([h[:, :1] + base[:, None], h[:, 1:]], 1)


@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("momentum", "frozen", "matrices"), [(0.0, 0, False), (0.6, 0, False), (0.6, 1, False), (0.6, 0, True)]
)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_adapted_segments_equal_a_plain_loop(
    name: LikelihoodName,
    momentum: float,
    frozen: int,
    matrices: bool,
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several chunks, segment by segment through autograd; one without rows keeps the start."""
    monkeypatch.setattr(kernels, "CHUNK_ROWS", 12)
    rng, likelihood = np.random.default_rng(0), LIKELIHOODS[name]
    widths = (6, 5, likelihood.outputs)
    start = [torch.from_numpy(0.4 * rng.normal(size=(a + 1, b)) / np.sqrt(a)) for a, b in pairwise(widths)]
    rates: list[list[float | Tensor]] = [[0.1 + 0.02 * i, 0.05 + 0.01 * i][frozen:] for i in range(4)]
    if matrices:
        rates = [[torch.from_numpy(rng.uniform(0, 0.1, weight.shape)) for weight in start] for _ in range(4)]
    rows = ragged(sizes, widths[0], labels(likelihood, sum(sizes)), rng)
    found = adapt_segments(
        start,
        rates,
        rows,
        np.arange(rows.rows),
        likelihood,
        activation="tanh",
        frozen=frozen,
        prior_rows=2.5,
        momentum=momentum,
    )
    for segment, (begin, end) in enumerate(pairwise(rows.starts)):
        x, y, weight, base = (
            torch.from_numpy(values[begin:end]) for values in (rows.x, rows.y, rows.weight, rows.base)
        )
        theta, speeds = list(start), [torch.zeros_like(weight) for weight in start]
        for row in rates if end > begin else []:
            leaves = [weight.clone().requires_grad_() for weight in theta]
            eta = plain_outputs(leaves, x, base, "tanh")
            losses = likelihood.loss(eta[:, 0] if likelihood.outputs == 1 else eta, y)
            slopes = torch.autograd.grad((losses * weight).sum() / (weight.sum() + 2.5), leaves)
            speeds = [momentum * v + g for v, g in zip(speeds, slopes, strict=True)]
            theta = theta[:frozen] + [
                w - rate * v for w, rate, v in zip(theta[frozen:], row, speeds[frozen:], strict=True)
            ]
        for ours, theirs in zip(found, theta[frozen:], strict=True):
            assert float((ours[segment] - theirs).norm()) <= 1e-10 * float(theirs.norm())
    assert not torch.equal(found[-1][1], start[-1])


@pytest.mark.parametrize("path", ["direct", "copied", "feature"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_scores_equal_a_plain_loop(outputs: int, activation: ActivationName, path: str) -> None:
    """Segments shorter and longer than a block, read in place, through a copy, or with the base as an input."""
    rng, sizes, feature = np.random.default_rng(0), (3, 0, 70, 2_050, 17), path == "feature"
    rows = ragged(sizes, 6, np.zeros(sum(sizes)), rng)
    if path == "copied":
        rows = replace(rows, x=rows.x.astype(np.float32))
    widths = (6 + feature, 8, 5, outputs)
    layers = [torch.from_numpy(rng.normal(size=(3, a + 1, b)) / np.sqrt(a)) for a, b in pairwise(widths)]
    models = np.array([2, 0, 1, 0, 2])
    found, sound = score_rows(
        networks(layers), models, rows, extra=(lambda base: 0.5 * base) if feature else None, activation=activation
    )
    assert sound
    assert found.shape == (rows.rows, outputs)
    for model, (begin, end) in zip(models, pairwise(rows.starts), strict=True):
        x, base = torch.from_numpy(rows.x[begin:end]).double(), torch.from_numpy(rows.base[begin:end])
        if feature:
            x, base = torch.cat([x, 0.5 * base[:, None]], 1), torch.zeros_like(base)
        wanted = plain_outputs([layer[model] for layer in layers], x, base, activation)
        np.testing.assert_allclose(found[begin:end], wanted.numpy(), rtol=1e-10, atol=1e-10)
