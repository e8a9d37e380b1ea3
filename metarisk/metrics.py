"""Losses, ranking and calibration measures, and the intervals and tests that decisions rest on.

Pure numpy and scipy: rows in, numbers out. Which rows may judge a model is `tasks` and `evidence`; drift is `drift`.
Shapes: N rows; a *logit* is on the log-odds scale, a *probability* in [0, 1], a label 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from metarisk.domain import Array, LikelihoodName, ModelError, floats

_BOOTSTRAP_CELLS = 4_000_000
"""Resampled blocks held at once: keeps a bootstrap over any number of blocks near 100 MB."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence bounds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ReliabilityBin:
    """One equal-mass group of rows: what was predicted, what came, and Jeffreys 95 % bounds of what came."""

    rows: int
    predicted: float
    observed: float
    low: float
    high: float


# losses, one a row; all on the scale that learners predict on


def log_loss(logit: ArrayLike, y: ArrayLike) -> Array:
    """Negative Bernoulli log-likelihood (N,) of labels y under logits; finite for every finite logit."""
    z = floats(logit)
    return np.asarray(np.logaddexp(0.0, z) - floats(y) * z)


def gaussian_deviance(mean: ArrayLike, y: ArrayLike) -> Array:
    """Squared error (N,): the unit deviance of the normal distribution."""
    return np.asarray((floats(y) - floats(mean)) ** 2)


def poisson_deviance(log_rate: ArrayLike, y: ArrayLike, exposure: ArrayLike = 1.0) -> Array:
    """Unit Poisson deviance (N,) of counts y whose expectation is ``exposure * exp(log_rate)``."""
    count, expected = floats(y), floats(exposure) * np.exp(floats(log_rate))
    return np.asarray(2.0 * (special.xlogy(count, count / expected) - count + expected))


def qlike(log_variance: ArrayLike, realised: ArrayLike) -> Array:
    """QLIKE (N,) = RV/h - ln(RV/h) - 1 for h = exp(log_variance); infinite where the realised variance is zero.

    Patton (2011), Volatility forecast comparison using imperfect volatility proxies.
    """
    with np.errstate(divide="ignore"):
        log_ratio = np.log(floats(realised)) - floats(log_variance)
    return np.asarray(np.exp(log_ratio) - log_ratio - 1.0)


def mse_log_volatility(log_variance: ArrayLike, realised: ArrayLike) -> float:
    """Mean squared error of the log of volatility; a realised variance of zero counts as the smallest one seen."""
    return float(np.mean((np.log(_raised(realised)) - floats(log_variance)) ** 2) / 4.0)


def _raised(realised: ArrayLike) -> Array:
    """Realised variances (N,), those of zero (a day without a trade) raised to the smallest other one."""
    seen = floats(realised)
    return np.asarray(np.maximum(seen, seen[seen > 0].min(initial=1.0)))


# ranking


def auc(score: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve; ties count half; NaN where one class is absent."""
    events, others = _mass_by_score(score, y, weight)
    total = events.sum() * others.sum()
    if total == 0.0:
        return math.nan
    below = np.cumsum(others) - others
    return float(np.sum(events * (below + 0.5 * others)) / total)


def pr_auc(score: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Average precision, rows of one score together (Davis and Goadrich 2006); NaN without an event."""
    events, others = (mass[::-1] for mass in _mass_by_score(score, y, weight))
    found, total = np.cumsum(events), float(events.sum())
    return float(events @ (found / (found + np.cumsum(others)))) / total if total else math.nan


def gini(score: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Accuracy ratio, 2 AUC - 1."""
    return 2.0 * auc(score, y, weight) - 1.0


def ks(score: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Largest distance between the score distributions of events and of the others; NaN where one class is absent."""
    events, others = _mass_by_score(score, y, weight)
    if events.sum() == 0.0 or others.sum() == 0.0:
        return math.nan
    return float(np.abs(np.cumsum(events) / events.sum() - np.cumsum(others) / others.sum()).max())


# calibration


def brier(probability: ArrayLike, y: ArrayLike) -> float:
    """Mean squared error of probabilities."""
    return float(np.mean((floats(probability) - floats(y)) ** 2))


def reliability(probability: ArrayLike, y: ArrayLike, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Equal-mass bins in order of probability; rows of one probability share a bin, so that row order never matters."""
    rows, predicted, events = _mass_by_bin(probability, y, bins)
    low = stats.beta.ppf(0.025, events + 0.5, rows - events + 0.5)
    high = stats.beta.ppf(0.975, events + 0.5, rows - events + 0.5)
    return tuple(
        ReliabilityBin(int(n), float(p / n), float(d / n), float(a), float(b))
        for n, p, d, a, b in zip(rows, predicted, events, low, high, strict=True)
    )


def ece(probability: ArrayLike, y: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error over equal-mass bins: mean distance of predicted from observed, weighted by rows."""
    rows, predicted, events = _mass_by_bin(probability, y, bins)
    return float(np.abs(predicted - events).sum() / rows.sum())


def calibration_in_the_large(logit: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Shift of the logits under which the mean prediction meets the event rate; above 0: risk was understated.

    The maximum-likelihood intercept with the logits as offset (Cox 1958; Steyerberg 2009), by Brent's method; infinite
    where all labels agree.
    """
    z, label = floats(logit), floats(y)
    w = np.ones_like(z) if weight is None else floats(weight)
    events, total = float(w @ label), float(w.sum())
    if events <= 0.0 or events >= total:
        return -math.inf if events <= 0.0 else math.inf
    centre = float(special.logit(events / total))
    # Wider than where the root must be, by more than rounding moves its ends.
    low, high = centre - float(z.max()) - 1e-3, centre - float(z.min()) + 1e-3
    return float(optimize.brentq(lambda shift: float(w @ special.expit(z + shift)) - events, low, high, xtol=1e-13))


# intervals and tests


def block_ids(*columns: ArrayLike) -> Array:
    """One integer (N,) for each distinct combination of the columns' values, for example period and segment."""
    ids = np.zeros(len(np.asarray(columns[0])), dtype=np.int64)
    for column in columns:
        codes = np.unique(np.asarray(column), return_inverse=True)[1].astype(np.int64)
        ids = np.unique(ids * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1].astype(np.int64)
    return ids


def paired_bootstrap(
    difference: ArrayLike,
    blocks: ArrayLike,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    weight: ArrayLike | None = None,
) -> Interval:
    """Percentile interval of a mean difference of losses when whole blocks of rows are drawn with replacement.

    Args:
        difference: loss of one candidate minus loss of the other on the same rows (N,); below 0: the first is better.
        blocks: what is drawn together (N,), any dtype: see `block_ids`. Rows of a block may depend on each other.
        weight: row weights (N,); None counts rows.

    One block alone gives an infinite interval, for nothing is known of its spread. The same arguments give the same
    bits.
    """
    d = floats(difference)
    w = np.ones_like(d) if weight is None else floats(weight)
    if d.size == 0 or w.sum() <= 0.0:
        return Interval(math.nan, -math.inf, math.inf)
    block = np.unique(np.asarray(blocks), return_inverse=True)[1]
    sums, mass = np.bincount(block, w * d), np.bincount(block, w)
    mean, count = float(sums.sum() / mass.sum()), len(sums)
    if count == 1:
        return Interval(mean, -math.inf, math.inf)
    rng, means = np.random.default_rng(seed), np.empty(draws)
    at_once = max(1, _BOOTSTRAP_CELLS // count)
    for start in range(0, draws, at_once):
        drawn = rng.integers(count, size=(min(at_once, draws - start), count), dtype=np.int32)
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / mass[drawn].sum(axis=1)
    low, high = np.nanquantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(mean, float(low), float(high))


# what judges a likelihood's scores

Rowwise = Callable[[ArrayLike, ArrayLike], Array]
Measure = Callable[[ArrayLike, ArrayLike], float]


@dataclass(frozen=True)
class Judge:
    """How scores of one likelihood are judged: by a loss that decides, and by measures that are told beside it.

    Attributes:
        loss: name of the loss in tables; its mean is the first measure.
        of: (link-scale scores (N,), labels (N,)) to losses (N,). A probability's link scale is its logit.
        ranking: name of the measure that tells how well rows are put in order.
        measures: by name, (link-scale scores (N,), labels (N,)) to a number; NaN where the labels allow none.
        spread: variance of a label as a function of its mean, up to a factor that is learned; None: it has none.
    """

    loss: str
    of: Rowwise
    ranking: str
    measures: Mapping[str, Measure]
    spread: Callable[[Array], Array] | None = None

    def measured(self, link: ArrayLike, y: ArrayLike) -> dict[str, float]:
        """Every measure by name."""
        return {name: measure(link, y) for name, measure in self.measures.items()}


def rank_correlation(score: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of scores and labels; NaN where one of them does not vary."""
    ranks = [stats.rankdata(floats(values)) for values in (score, y)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _of_both(measure: Measure) -> Measure:
    """The measure where labels are of both classes, else NaN."""
    return lambda logit, y: measure(logit, y) if 0 < floats(y).sum() < len(floats(y)) else math.nan


def _of_probability(measure: Measure) -> Measure:
    return lambda logit, y: measure(special.expit(floats(logit)), y)


def _log_level(link: ArrayLike, y: ArrayLike) -> float:
    """Log of what came over what was expected under a log link; NaN where nothing came."""
    came = float(floats(y).sum())
    return math.log(came / float(np.exp(floats(link)).sum())) if came > 0 else math.nan


EVENT = Judge(
    "log_loss",
    log_loss,
    "auc",
    {
        "auc": _of_both(auc),
        "pr_auc": _of_both(pr_auc),
        "gini": _of_both(gini),
        "ks": _of_both(ks),
        "brier": _of_probability(brier),
        "ece": _of_probability(ece),
        "calibration_in_the_large": _of_both(calibration_in_the_large),
    },
)
_COUNT = Judge(
    "poisson_deviance",
    poisson_deviance,
    "rank_correlation",
    {"rank_correlation": rank_correlation, "log_level": _log_level},
    lambda mean: mean,
)
_VALUE = Judge(
    "squared_error",
    gaussian_deviance,
    "rank_correlation",
    {
        "rank_correlation": rank_correlation,
        "bias": lambda mean, y: float(np.mean(floats(mean) - floats(y))),
        "absolute_error": lambda mean, y: float(np.mean(np.abs(floats(mean) - floats(y)))),
    },
    np.ones_like,
)
JUDGES: Mapping[LikelihoodName, Judge] = {
    "bernoulli": EVENT,
    "hazard": EVENT,
    "cumulative_hazard": EVENT,
    "gaussian": _VALUE,
    "qlike": Judge(
        "qlike",
        lambda log_variance, realised: qlike(log_variance, _raised(realised)),
        "rank_correlation",
        {"mse_log_volatility": mse_log_volatility, "rank_correlation": rank_correlation, "log_level": _log_level},
        lambda mean: mean**2,
    ),
    "poisson": _COUNT,
    "negative_binomial": _COUNT,
}


def judge_of(likelihood: LikelihoodName) -> Judge:
    """What judges scores of a likelihood; a ModelError where nothing does."""
    if likelihood not in JUDGES:
        raise ModelError(
            f"nothing judges scores of likelihood {likelihood}",
            remedy=f"for a risk type use one of {', '.join(JUDGES)}",
        )
    return JUDGES[likelihood]


def dispersion(link: ArrayLike, mean: Array, y: ArrayLike, likelihood: LikelihoodName) -> float:
    """Factor phi of Var(y) = phi V(mean), by which a quasi-likelihood divides its losses; 1 for events.

    Pearson's estimate (Wedderburn 1974, Biometrika 61, 439-447) for counts; for others the mean unit deviance, which a
    few extreme rows move less.

    Args:
        link, mean, y: scores on the link and on the label's own scale, and labels, (N,), of rows that taught no score.
    """
    judge = judge_of(likelihood)
    if judge.spread is None or not len(mean):
        return 1.0
    if judge is _COUNT:
        phi = float(np.mean((floats(y) - mean) ** 2 / np.maximum(judge.spread(mean), 1e-12)))
    else:
        losses = judge.of(link, y)
        phi = float(np.mean(losses[np.isfinite(losses)])) * (2.0 if likelihood == "qlike" else 1.0)
    return phi if phi > 0 else 1.0


def benjamini_hochberg(p: ArrayLike) -> Array:
    """False-discovery-rate adjusted p-values (q), in the order given; NaN is no test: it stays NaN and is not counted.

    Benjamini and Hochberg (1995).
    """
    values = floats(p)
    q, tested = np.full_like(values, np.nan), ~np.isnan(values)
    q[tested] = stats.false_discovery_control(values[tested])
    return q


def _mass_by_score(score: ArrayLike, y: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array]:
    """Weight of events and of the others at each distinct score, in rising order."""
    label = floats(y)
    w = np.ones_like(label) if weight is None else floats(weight)
    code = np.unique(floats(score), return_inverse=True)[1]
    return np.bincount(code, w * label), np.bincount(code, w * (1.0 - label))


def _mass_by_bin(probability: ArrayLike, y: ArrayLike, bins: int) -> tuple[Array, Array, Array]:
    """Rows, summed probability and events of the equal-mass bins that hold rows."""
    p = floats(probability)
    middle = (stats.rankdata(p) - 0.5) / max(p.size, 1)
    code = np.minimum((middle * bins).astype(np.int64), bins - 1)
    rows, predicted, events = np.bincount(code), np.bincount(code, p), np.bincount(code, floats(y))
    held = rows > 0
    return rows[held].astype(np.float64), predicted[held], events[held]
