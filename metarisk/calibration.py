"""From a probability of default to a scorecard: points, grades, expected loss, back-tests by grade, and the level.

Pure numpy and scipy: rows in, numbers out. Which rows may be judged or may teach is `tasks` and `evidence`; losses,
Hosmer-Lemeshow and Benjamini-Hochberg are `metrics`. Shapes: N rows, G grades from best to worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from metarisk.domain import Array, Grade, LikelihoodName, Scorecard, floats

HAZARDS: frozenset[LikelihoodName] = frozenset({"hazard", "cumulative_hazard"})
"""Likelihoods whose score is the log of a hazard over the horizon."""
GRADED: frozenset[LikelihoodName] = frozenset({"bernoulli", *HAZARDS})
"""Likelihoods whose score is the probability of an event: those that have points and grades."""
LEVELLED: frozenset[LikelihoodName] = GRADED | {"qlike", "poisson", "negative_binomial"}
"""Likelihoods whose link scale is a logarithm or a logit: on it a level has one meaning in every portfolio."""
_FACTOR = np.linspace(-9.0, 9.0, 1_201)
"""The common factor's grid: smooth and all but zero at its ends, where the trapezoid rule converges exponentially."""
_NEWTON_STEPS = 50
_LONGEST_STEP = 1.0


# points, grades, loss


def log_odds(link: ArrayLike, likelihood: LikelihoodName) -> Array:
    """Log-odds of the event (N,) from link-scale scores: themselves for a logit, ln(exp(H) - 1) for H = exp(eta)."""
    eta = floats(link)
    if likelihood not in HAZARDS:
        return eta
    hazard = np.exp(np.minimum(eta, 700.0))
    # ln(exp(H) - 1) = H + ln(1 - exp(-H)), which neither overflows for large H nor cancels for small
    return hazard + np.log(-np.expm1(-np.maximum(hazard, np.finfo(float).tiny)))


def points(odds: ArrayLike, card: Scorecard) -> Array:
    """Scorecard points of default log-odds: `base` at good:bad `odds`, `pdo` more where the odds double.

    points = offset - factor * log-odds, with factor = PDO / ln 2 and offset = base - factor ln(odds) (Siddiqi 2006).
    """
    factor = card.pdo / math.log(2.0)
    return np.asarray(card.base - factor * (math.log(card.odds) + floats(odds)))


def grade_numbers(probability: ArrayLike, grades: Sequence[Grade]) -> Array:
    """Number of each probability's grade, int64 (N,): the first whose bound is not below it."""
    bounds = np.array([grade.upper for grade in grades])
    found = np.searchsorted(bounds, floats(probability), side="left")
    return np.minimum(found, len(bounds) - 1).astype(np.int64)


def expected_loss(probability: ArrayLike, lgd: ArrayLike, ead: ArrayLike) -> Array:
    """PD x LGD x EAD (N,), in the unit of the exposure; NaN where one of them is."""
    return np.asarray(floats(probability) * floats(lgd) * floats(ead))


# back-tests of a probability


def jeffreys_p(probability: ArrayLike, events: ArrayLike, rows: ArrayLike) -> Array:
    """One-sided Jeffreys p-value that the PD is not understated: BetaCDF(PD; D + 1/2, N - D + 1/2)."""
    d, n = floats(events), floats(rows)
    return np.asarray(stats.beta.cdf(floats(probability), d + 0.5, n - d + 0.5))


def binomial_p(probability: ArrayLike, events: ArrayLike, rows: ArrayLike) -> Array:
    """One-sided exact p-value: the probability of D or more events among N independent rows."""
    return np.asarray(stats.binom.sf(floats(events) - 1, floats(rows), floats(probability)))


def vasicek_p(probability: ArrayLike, events: ArrayLike, rows: ArrayLike, correlation: float) -> Array:
    """One-sided p-value where defaults share one normal factor: P(D or more of N) averaged over the factor.

    Given the factor z, defaults are independent with PD Phi((Phi^-1(PD) + sqrt(rho) z) / sqrt(1 - rho)) (Vasicek 1987);
    the average is taken by the trapezoid rule. Correlation 0 gives `binomial_p`.
    """
    p, d, n = np.broadcast_arrays(floats(probability), floats(events), floats(rows))
    weights = np.exp(-(_FACTOR**2) / 2)
    threshold = special.ndtri(p)[..., None]
    given = special.ndtr((threshold + math.sqrt(correlation) * _FACTOR) / math.sqrt(1.0 - correlation))
    tail = stats.binom.sf(d[..., None] - 1, n[..., None], given)
    return np.asarray(np.minimum(tail @ weights / weights.sum(), 1.0))


def upper_bound(rows: ArrayLike, events: ArrayLike, confidence: float = 0.9) -> Array:
    """Upper PD bounds (G,) of pools by themselves (Clopper and Pearson); 1 where all defaulted or none is there."""
    n, d = floats(rows), floats(events)
    survived = np.maximum(n - d, 0.0)
    bound = stats.beta.ppf(confidence, d + 1.0, np.where(survived > 0.0, survived, 1.0))
    return np.where(survived > 0.0, bound, 1.0)


# the level


@dataclass(frozen=True)
class LevelRule:
    """How strongly the level follows the latest known months; learned by the week, applied by every night.

    Attributes:
        months: how many of the latest months with known outcomes are looked at; 0: the level is left alone.
        portfolio_variance, segment_variance: prior variances of the shifts on the link scale.
    """

    months: int = 0
    portfolio_variance: float = 0.0
    segment_variance: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """The last step of a score: a shift on the link scale, of the portfolio and of each segment. The default is none.

    Attributes:
        portfolio: shift of every row.
        segments: further shift of the rows of a segment, by its printable name.
    """

    portfolio: float = 0.0
    segments: Mapping[str, float] = field(default_factory=dict)

    def shift(self, segment: str) -> float:
        """What is added to the link-scale score of a segment's rows."""
        return self.portfolio + self.segments.get(segment, 0.0)


Derivative = Callable[[Array, Array], Array]


def calibrate(
    link: Array,
    y: Array,
    codes: Array,
    names: Sequence[str],
    rule: LevelRule,
    *,
    gradient: Derivative,
    curvature: Derivative,
) -> Calibration:
    """The shrunk level shifts of the portfolio and of its segments, by their posterior mode.

    Minimises sum loss(eta + d + d_s) + d^2 / (2 v) + sum d_s^2 / (2 v_s) by Newton steps of at most one; segments are
    eliminated first. The order of the rows changes nothing beyond rounding.

    Args:
        link: adapted link-scale scores (N,) of rows whose outcomes are known, by fits that have not seen them.
        y: labels (N,).
        codes: number of each row's segment in `names`, int64 (N,).
        names: printable names of the segments.
        rule: prior variances; one of zero keeps its shifts at zero.
        gradient, curvature: of the likelihood's loss in eta, (eta (N,), y (N,)) to (N,).
    """
    segments = len(names)
    portfolio, own = 0.0, np.zeros(segments)
    if not len(y) or rule.months == 0:
        return Calibration()
    for _ in range(_NEWTON_STEPS):
        eta = link + portfolio + own[codes]
        slope, bend = gradient(eta, y), curvature(eta, y)
        g = np.bincount(codes, slope, minlength=segments)
        h = np.bincount(codes, bend, minlength=segments)
        step, steps = _newton(g, h, portfolio, own, rule)
        longest = max(abs(step), float(np.abs(steps).max(initial=0.0)))
        share = min(1.0, _LONGEST_STEP / longest) if longest else 0.0
        portfolio, own = portfolio - share * step, own - share * steps
        if longest <= 1e-10:
            break
    return Calibration(float(portfolio), {name: float(d) for name, d in zip(names, own, strict=True) if d})


def _newton(g: Array, h: Array, portfolio: float, own: Array, rule: LevelRule) -> tuple[float, Array]:
    """The Newton step of the portfolio's shift and those of the segments (S,), given sums by segment."""
    if rule.segment_variance:
        precision = h + 1.0 / rule.segment_variance
        slopes = g + own / rule.segment_variance
    else:
        precision, slopes = np.full_like(h, math.inf), np.zeros_like(g)
    if not rule.portfolio_variance:
        return 0.0, slopes / precision
    schur = h.sum() + 1.0 / rule.portfolio_variance - float((h**2 / precision).sum())
    rest = g.sum() + portfolio / rule.portfolio_variance - float((h * slopes / precision).sum())
    step = float(rest / schur)
    return step, (slopes - h * step) / precision
