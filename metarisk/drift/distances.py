"""Distances between two histograms, and the test whether one distribution can have given both. Pure numpy.

Arrays of counts are (G, B): G groups of rows (segments), B bins; each function works on all groups at once.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from metarisk.domain import Array

EMPTY_SHARE = 1e-4
"""What an empty bin's share counts as in the population stability index."""
LEAST_EXPECTED = 5.0
_ENOUGH_HITS = 20


def psi(reference: Array, current: Array) -> Array:
    """Population stability index (G,) = sum over bins of (p - q) ln(p / q), an empty share taken as 1e-4."""
    p, q = _shares(reference), _shares(current)
    p, q = np.where(p > 0.0, p, EMPTY_SHARE), np.where(q > 0.0, q, EMPTY_SHARE)
    return np.asarray(np.sum((p - q) * np.log(p / q), axis=1))


def jensen_shannon(reference: Array, current: Array) -> Array:
    """Jensen-Shannon distance (G,) in [0, 1]: the root of the divergence in bits (Endres and Schindelin 2003)."""
    p, q = _shares(reference), _shares(current)
    middle = 0.5 * (p + q)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0.0) + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return np.asarray(np.sqrt(np.maximum(0.5 * parts.sum(axis=1), 0.0)))


def wasserstein(reference: Array, current: Array, edges: Array) -> Array:
    """Distance (G,) that mass must travel, in the feature's unit, between histograms of values.

    Args:
        reference, current: counts (G, E + 1) of the bins that `edges` (E,) bound, the outer ones open.

    Mass is spread evenly inside a bin, and what lies beyond the outer edges counts as lying on them.
    """
    gap = np.cumsum(_shares(reference) - _shares(current), axis=1)[:, :-1]
    left, right, width = np.abs(gap[:, :-1]), np.abs(gap[:, 1:]), np.diff(edges)
    crossing = gap[:, :-1] * gap[:, 1:] < 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        area = np.where(crossing, (left**2 + right**2) / (2.0 * (left + right)), 0.5 * (left + right))
    return np.asarray(np.sum(area * width, axis=1))


def spread(counts: Array, edges: Array) -> float:
    """Robust standard deviation of a histogram (E + 1,): its interquartile range / 1.349; NaN where that is zero."""
    if len(edges) < 2 or counts.sum() == 0:
        return float("nan")
    share = np.cumsum(counts)[:-1] / counts.sum()
    low, high = np.interp([0.25, 0.75], share, edges)
    return float(high - low) / 1.349 or float("nan")


def tenths(reference: Array) -> Array:
    """Merge fine bins (G, F) into each group's own tenths: the number of the tenth of every bin, int64 (G, F).

    A tenth ends at the fine bin whose cumulative reference share is nearest to k/10; tenths that end together are one.
    """
    total = reference.sum(axis=1, keepdims=True)
    reached = np.cumsum(reference, axis=1) / np.maximum(total, 1)
    ends = np.abs(reached[:, :, None] - np.arange(1, 10) / 10.0).argmin(axis=1)
    last = np.zeros(reference.shape, dtype=np.int64)
    np.put_along_axis(last, ends, 1, axis=1)
    return np.cumsum(last, axis=1) - last


def merge(counts: Array, into: Array, width: int | None = None) -> Array:
    """Sum the bins of each group that go `into` (G, B) the same new bin."""
    width = int(into.max(initial=0)) + 1 if width is None else width
    flat = np.arange(len(counts))[:, None] * width + into
    return np.bincount(flat.ravel(), counts.ravel(), len(counts) * width).reshape(-1, width)


def pooled(reference: Array, current: Array, *, ordered: bool) -> Array:
    """Pool bins until each expects at least five rows in the smaller sample: the number of every bin's pool (G, B).

    Neighbours are pooled where bins are `ordered`, rare levels with each other where they are not. Only the sums of
    both samples decide, so that the test given the sums stays exact.
    """
    total = (reference + current).astype(float)
    n, m = current.sum(axis=1), reference.sum(axis=1)
    least = LEAST_EXPECTED * (n + m) / np.maximum(np.minimum(n, m), 1)
    order = np.argsort(-total, axis=1, kind="stable") if not ordered else np.indices(total.shape)[1]
    sorted_total = np.take_along_axis(total, order, axis=1)
    pools, open_sum, pool = np.zeros(total.shape, dtype=np.int64), np.zeros(len(total)), np.zeros(len(total), dtype=int)
    for j in range(total.shape[1]):
        pools[:, j] = pool
        open_sum += sorted_total[:, j]
        full = open_sum >= least
        pool, open_sum = pool + full, np.where(full, 0.0, open_sum)
    pools = np.minimum(pools, np.maximum(pool - 1, 0)[:, None])
    back = np.zeros(total.shape, dtype=np.int64)
    np.put_along_axis(back, order, pools, axis=1)
    return back


def homogeneity(reference: Array, current: Array) -> tuple[Array, Array]:
    """Pearson's statistic (G,) of two samples' counts and its chi-square p-value; NaN where all rows share one bin."""
    statistic = _pearson(reference, current)
    freedom = np.count_nonzero(reference + current, axis=1) - 1
    p = stats.chi2.sf(statistic, np.maximum(freedom, 1))
    return statistic, np.where(freedom > 0, p, np.nan)


def monte_carlo_p(reference: Array, current: Array, *, most: int, rng: np.random.Generator) -> float:
    """P-value of Pearson's statistic of one table (B,), (B,) given its margins, by drawing tables with these margins.

    Draws until twenty tables are as extreme or `most` are drawn (Besag and Clifford 1991): valid where chi-square is
    not, that is far out in the tail of small samples.
    """
    total = np.asarray(reference + current, dtype=np.int64)
    n, seen = int(current.sum()), float(_pearson(reference[None], current[None])[0])
    hits = drawn = 0
    at_once = 1_000
    while hits < _ENOUGH_HITS and drawn < most:
        at_once = min(2 * at_once, 50_000, most - drawn)
        draws = rng.multivariate_hypergeometric(total, n, size=at_once, method="marginals")
        hits += int(np.count_nonzero(_pearson(total - draws, draws) >= seen * (1.0 - 1e-12)))
        drawn += at_once
    return (hits + 1) / (drawn + 1)


def sampling_psi(reference: Array, current: Array) -> Array:
    """The index that two samples of one distribution give on average: (B - 1)(1/n + 1/m) for B bins in use."""
    n, m = current.sum(axis=1), reference.sum(axis=1)
    used = np.count_nonzero(reference + current, axis=1)
    return np.asarray(np.maximum(used - 1, 0) * (1.0 / np.maximum(n, 1) + 1.0 / np.maximum(m, 1)))


def _pearson(reference: Array, current: Array) -> Array:
    """Pearson's statistic of 2 x B tables: the sum of squared deviations over expectations of both samples."""
    total = (reference + current).astype(float)
    n, m = current.sum(axis=-1, keepdims=True), reference.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = total * n / (n + m)
        parts = np.where(total > 0.0, (current - expected) ** 2 / total, 0.0)
        statistic = parts.sum(axis=-1) * ((n + m) ** 2 / (n * m))[..., 0]
    return np.asarray(np.nan_to_num(statistic, nan=0.0, posinf=0.0))


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
