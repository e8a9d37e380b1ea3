"""How large losses are: of each cell a lognormal body below a threshold and a GPD tail above it, pooled over cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from metarisk.domain import Array, ModelError
from metarisk.risks.operational.pooling import Axis, Pooled, grid, pool
from metarisk.risks.operational.tails import choose_threshold, excess_at, log_density, survival

HEAVY = 0.5
"""Tail shape above which a loss has no variance: such a cell is flagged."""
SCALE_STRENGTH = 5.0
"""Losses of a cell that weigh as much as the pool in the cell's scale."""

BODY_SPREAD = np.array([0.3, 0.2])
"""Standard deviation between cells of location and log spread of the body, around those of all losses."""
WIDE = np.array([2.0, 1.0])
"""The same of all losses, around 0."""
TAIL = (
    Axis(np.linspace(-0.45, 1.75, 56), spread=0.1, middle=0.5, width=0.3),
    Axis(np.linspace(-3.5, 2.5, 41), spread=0.3, middle=-0.5, width=1.0),
)
"""Tail shape, and log of the tail's scale over the threshold."""
SHARE = (Axis(np.linspace(-6.0, 2.0, 81), spread=0.3, middle=-2.0, width=1.5),)
"""Logit of the share of losses above the threshold."""


@dataclass(frozen=True)
class Severity:
    """Loss distributions of C cells, each parameter (C,): lognormal on (floor, threshold], GPD above.

    Attributes:
        floor: amount from which losses are collected; 0 where all are.
        scale: geometric mean loss of each cell, shrunk to the pool's.
        location, spread: of the lognormal's logarithm, in units of log(loss / scale).
        threshold: of each cell, one multiple of `scale` for all.
        tail_share: probability of a loss above the threshold.
        shape, tail_scale: of the GPD; tail_scale in the unit of the losses.
    """

    floor: float
    scale: Array
    location: Array
    spread: Array
    threshold: Array
    tail_share: Array
    shape: Array
    tail_scale: Array

    @property
    def heavy(self) -> Array:
        """Cells (C,) whose losses have no variance."""
        return np.asarray(self.shape > HEAVY)

    def sf(self, losses: ArrayLike, cell: int) -> Array:
        """Probability (N,) of a larger loss in a cell."""
        x = np.asarray(losses, dtype=np.float64)
        low, high = self._ends(cell)
        with np.errstate(divide="ignore"):
            place = (np.log(np.maximum(x, self.floor) / self.scale[cell]) - self.location[cell]) / self.spread[cell]
        body = (special.ndtr(place) - low) / (high - low)
        share = self.tail_share[cell]
        over = np.maximum(x - self.threshold[cell], 0.0)
        tail = share * survival(over, self.shape[cell], self.tail_scale[cell])
        return np.asarray(np.where(x > self.threshold[cell], tail, 1.0 - (1.0 - share) * np.clip(body, 0.0, 1.0)))

    def ppf(self, level: ArrayLike, cell: int) -> Array:
        """Quantile (N,) of a cell's losses."""
        q = np.asarray(level, dtype=np.float64)
        low, high = self._ends(cell)
        share = float(self.tail_share[cell])
        within = np.clip(q / (1.0 - share), 0.0, 1.0)
        body = special.ndtri(low + within * (high - low)) * self.spread[cell] + self.location[cell]
        with np.errstate(divide="ignore"):
            left = np.minimum((1.0 - q) / share, 1.0)
            tail = self.threshold[cell] + excess_at(left, self.shape[cell], self.tail_scale[cell])
        return np.asarray(np.where(q > 1.0 - share, tail, self.scale[cell] * np.exp(body)))

    def mean(self) -> Array:
        """Expected loss (C,) of one event; infinite for a tail shape of 1 or more."""
        bodies = []
        for cell in range(len(self.scale)):
            low, high = self._ends(cell)
            raised = special.ndtr(np.array(self._places(cell)) - self.spread[cell])
            bodies.append(
                self.scale[cell]
                * np.exp(self.location[cell] + self.spread[cell] ** 2 / 2)
                * (raised[1] - raised[0])
                / (high - low)
            )
        with np.errstate(divide="ignore"):
            tail = self.threshold + np.where(
                self.shape < 1.0, self.tail_scale / np.maximum(1.0 - self.shape, 0), np.inf
            )
        return np.asarray((1.0 - self.tail_share) * np.array(bodies) + self.tail_share * tail)

    def _places(self, cell: int) -> tuple[float, float]:
        """Standardised logarithms of floor and threshold."""
        ends = np.array([self.floor, self.threshold[cell]])
        with np.errstate(divide="ignore"):
            low, high = (np.log(ends / self.scale[cell]) - self.location[cell]) / self.spread[cell]
        return float(low), float(high)

    def _ends(self, cell: int) -> tuple[float, float]:
        low, high = special.ndtr(np.array(self._places(cell)))
        return float(low), max(float(high), float(low) + 1e-300)


@dataclass(frozen=True)
class PooledSeverity:
    """Severities of all cells: the estimate, and how to draw others from the posterior of scales, shares and tails.

    The form of the body is the estimated one in every draw: it hardly moves a 99.9 % year.
    """

    estimate: Severity
    share: Pooled
    tail: Pooled
    scale_error: Array
    """Standard deviation of the logarithm of each cell's scale, (C,): large where there are few losses."""
    events: Array
    """Losses of each cell, int64 (C,)."""
    exceedances: Array
    """Losses above each cell's threshold, int64 (C,)."""

    @property
    def draws(self) -> int:
        """Number of posterior draws."""
        return len(self.tail.draws)

    def drawn(self, number: int) -> Severity:
        """The severities of one posterior draw."""
        moved = np.exp(self.scale_error * np.random.default_rng(number).standard_normal(len(self.events)))
        frame = replace(
            self.estimate,
            scale=self.estimate.scale * moved,
            threshold=np.maximum(self.estimate.threshold * moved, self.estimate.floor * 1.01),
        )
        return _composed(frame, self.share.draws[number], self.tail.draws[number])

    def shape_interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """Central posterior interval (C,) of the tail shapes."""
        low, high = np.quantile(self.tail.draws[:, :, 0], [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high


def fit_severity(
    losses: Sequence[Array], *, floor: float = 0.0, threshold: float | None = None, draws: int = 200, seed: int = 0
) -> PooledSeverity:
    """Fit body and tail of every cell, each parameter under a normal prior that is learned over the cells.

    The threshold is one multiple of each cell's scale, chosen by `choose_threshold` on all losses over their cells'
    scales; or `threshold`, an amount, for all cells.

    Args:
        losses: amounts of each cell (C arrays, some of them may be empty), all above `floor`, in one currency.
        floor: amount from which losses are collected.
        threshold: the same amount for every cell, instead of the rule.

    Raises:
        ModelError: no losses, or one that is not above the floor.
    """
    events = np.array([len(cell) for cell in losses])
    everything = np.concatenate([np.asarray(cell, dtype=np.float64) for cell in losses]) if len(losses) else np.zeros(0)
    wrong = ~(np.isfinite(everything) & (everything > 0) & (everything >= floor))
    if not len(everything) or wrong.any():
        raise ModelError(
            f"severities expect finite losses above 0 and from {floor:g} on, got {len(everything)} losses of which "
            f"{int(wrong.sum())} are not",
            remedy="quarantine what is no loss by the suite, and state the collection threshold",
        )
    scale = _scales(losses, float(np.log(everything).mean()))
    within = np.concatenate([np.log(cell / unit) for cell, unit in zip(losses, scale, strict=True)]).std()
    if threshold is None:
        multiple = choose_threshold(np.concatenate([cell / unit for cell, unit in zip(losses, scale, strict=True)]))
        thresholds = np.maximum(multiple * scale, floor * 1.01)
    else:
        thresholds = np.full(len(losses), threshold)
    above = np.array([int((cell > u).sum()) for cell, u in zip(losses, thresholds, strict=True)])
    logit = grid(SHARE)[:, 0]
    shares = above[:, None] * -np.logaddexp(0, -logit) - (events - above)[:, None] * np.logaddexp(0, logit)
    share = pool(shares, SHARE, draws=draws, seed=seed)
    tail = pool(_tail(losses, thresholds), TAIL, draws=draws, seed=seed + 1)
    nothing = np.zeros(len(losses))
    frame = Severity(floor, scale, *_bodies(losses, floor, scale, thresholds), thresholds, nothing, nothing, nothing)
    estimate = _composed(frame, share.estimate, tail.estimate)
    return PooledSeverity(estimate, share, tail, within / np.sqrt(events + SCALE_STRENGTH), events, above)


def _composed(frame: Severity, share: Array, tail: Array) -> Severity:
    """Severities with the shares (C, 1) and tails (C, 2) of a draw."""
    return replace(
        frame,
        tail_share=special.expit(share[:, 0]),
        shape=tail[:, 0],
        tail_scale=frame.threshold * np.exp(tail[:, 1]),
    )


def _scales(losses: Sequence[Array], pooled: float) -> Array:
    """Geometric mean loss (C,) of each cell, as if it had SCALE_STRENGTH more losses at the pool's."""
    sums = np.array([float(np.log(cell).sum()) for cell in losses])
    sizes = np.array([len(cell) for cell in losses])
    return np.asarray(np.exp((sums + SCALE_STRENGTH * pooled) / (sizes + SCALE_STRENGTH)))


def _bodies(losses: Sequence[Array], floor: float, scale: Array, thresholds: Array) -> tuple[Array, Array]:
    """Location and spread (C,) each of the lognormal bodies: penalised towards the body of all losses together."""
    logs = [np.log(cell[cell <= u] / unit) for cell, unit, u in zip(losses, scale, thresholds, strict=True)]
    with np.errstate(divide="ignore"):
        ends = np.log(np.column_stack([np.full(len(scale), floor), thresholds]) / scale[:, None])
    low, high = float(np.median(ends[:, 0])), float(np.median(ends[:, 1]))
    pooled = _body(np.concatenate(logs), low, high, np.zeros(2), WIDE)
    found = np.array(
        [_body(z, float(low), float(high), pooled, BODY_SPREAD) for z, (low, high) in zip(logs, ends, strict=True)]
    )
    return found[:, 0], np.exp(found[:, 1])


def _body(z: Array, low: float, high: float, middle: Array, spread: Array) -> Array:
    """Location and log spread (2,) of a normal cut off at both ends, under a normal prior, by penalised likelihood."""
    count, total, squares = len(z), float(z.sum()), float((z**2).sum())

    def loss(place: Array) -> float:
        location, sigma = float(place[0]), float(np.exp(np.clip(place[1], -5.0, 5.0)))
        mass = special.ndtr((high - location) / sigma) - special.ndtr((low - location) / sigma)
        fit = (squares - 2 * location * total + count * location**2) / (2 * sigma**2)
        penalty = float((((place - middle) / spread) ** 2).sum()) / 2
        return float(fit + count * (np.log(sigma) + np.log(max(mass, 1e-300))) + penalty)

    return np.asarray(optimize.minimize(loss, middle, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}).x)


def _tail(losses: Sequence[Array], thresholds: Array) -> Array:
    """Log-likelihood (C, G) of the excesses over each cell's threshold, in units of it."""
    points = grid(TAIL)
    shape, scale = points[:, :1], np.exp(points[:, 1:])
    return np.stack(
        [
            log_density(cell[cell > threshold] / threshold - 1.0, shape, scale).sum(axis=1)
            for cell, threshold in zip(losses, thresholds, strict=True)
        ]
    )
