"""Pure noise in a segment's labels keeps its scores near the pooled ones, whatever its size, seed and event rate."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from metarisk.domain import Array, Packed
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.loop import Loop
from metarisk.learners.metric.learner import evidence
from metarisk.learners.packing import Block

BAND = 4.0
"""Prior standard deviations of a row's effect within which its score stays. A MAP effect of a segment whose level is
the pooled one spreads less than its prior; beyond four of these lies fewer than one chance in ten thousand."""


def book(seed: int, sizes: list[int], level: float) -> tuple[Packed, Array]:
    """Segments with effects, but for the first, whose labels are coin flips of the mean pooled probability."""
    r = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(starts[-1])
    x, base = r.normal(size=(n, 2)), level + r.normal(0, 0.8, n)
    eta = base + np.repeat(r.normal(0, 0.4, len(sizes)), sizes)
    p = special.expit(eta)
    own = slice(0, sizes[0])
    p[own] = special.expit(base[own]).mean()
    keys = tuple((f"region {i % 4}", f"product {i // 4}") for i in range(len(sizes)))
    y = (r.random(n) < p).astype(float)
    return Packed(keys, starts, x, y, np.ones(n), base), p


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 3000), level=st.floats(-4, 1))
def test_the_hierarchical_head_keeps_noise_in_the_band(seed: int, size: int, level: float) -> None:
    rows, _ = book(seed, [size] + [40] * 11, level)
    state = {
        "centre": np.array(level),
        "damping": np.array(0.85),
        "shared_variance": np.array([0.25, 0.05]),
        "parent_variance": np.array([0.03, 0.03]),
        "cell_variance": np.array(0.03),
        "noise_variance": np.array(1.0),
    }
    head = MapHead()
    adaptation = head.adapt(state, rows, "bernoulli")
    first = rows.select([0])
    eta, _ = head.predict(state, adaptation, first, "bernoulli")
    a0, a1 = adaptation.arrays["shared"][0]
    pooled = first.base + 0.85 * (a0 + a1 * (first.base - level))
    assert np.abs(eta - pooled).max() <= BAND * 0.85 * np.sqrt(0.03 * 3)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 100), level=st.floats(-4, 1))
def test_the_map_head_keeps_thin_noise_in_the_band(seed: int, size: int, level: float) -> None:
    rows, _ = book(seed, [size, 30], level)
    head = MapNetwork(loop=Loop(precision="float64"))
    state = {
        **head._start(2, np.random.default_rng(0)),
        "centre": np.array(level),
        "noise": np.array(1.0),
    }
    first = rows.select([0])
    eta, _ = head.predict(state, head.adapt(state, rows, "bernoulli"), first, "bernoulli")
    features = np.column_stack([np.ones(size), first.base - level, first.x])
    spread = np.sqrt((features**2) @ np.exp(-state["log_precision"]))
    assert (np.abs(eta - first.base) <= BAND * spread).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 50),
    log_mass=st.floats(-5, 5),
    rate=st.floats(0.001, 0.999),
)
def test_no_labels_at_all_can_move_a_metric_learner_further_than_its_support_allows(
    seed: int, rows: int, log_mass: float, rate: float
) -> None:
    """|correction| <= 2 log(1 + kernel mass / m), for any labels and any expectation."""
    r = np.random.default_rng(seed)
    kernel = torch.from_numpy(r.random((1, 5, rows)))
    y, weight = torch.from_numpy((r.random((2, 1, rows)) < rate).astype(float))
    found = evidence(
        kernel, Block(kernel, y, weight, y), torch.from_numpy(r.random((1, rows))), torch.tensor(log_mass).double()
    )
    bound = 2 * np.log1p((kernel * weight.unsqueeze(1)).sum(-1).numpy() / np.exp(log_mass))
    assert (np.abs(found.numpy()) <= bound + 1e-9).all()
