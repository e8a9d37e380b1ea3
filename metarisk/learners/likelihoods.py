"""What a score means: loss, derivatives, inverse link and label range of every likelihood, in one table.

Elementwise torch functions only; sums, weights and segments belong to the learners. Every loss is a negative
log-likelihood up to terms free of the score, so losses compare within one likelihood only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from metarisk.domain import Array, LikelihoodName, ModelError

Elementwise = Callable[[Tensor, Tensor], Tensor]

LEAST_VARIANCE = 1e-4
"""Share of the base's forecast variance below which a realised variance tells a fit no more than that it was small."""


@dataclass(frozen=True)
class Likelihood:
    """One distribution of the label given the score `eta` on the link scale.

    `eta` has the labels' shape (...,), or (..., 2) where `outputs` is 2. Exposure enters as an offset of `eta`:
    `Packed.base` holds its logarithm. Nothing overflows for |eta| <= 50 in float32 or float64.

    Attributes:
        name: the key in `LIKELIHOODS`.
        outputs: scores a row, 1 or 2 (the first is the one that an offset shifts and a prediction returns).
        loss: (eta, y) to the negative log-likelihood (...,), up to terms free of eta.
        gradient: (eta, y) to d loss / d eta, the shape of eta.
        curvature: (eta, y) to the second derivative, the shape of eta, or (..., 2, 2).
        mean: the inverse link, eta to the expected label (the quantile, for `quantile`).
        labels: words for the range of y, for errors.
        inside: y to a mask of the labels in range.
        told: labels (N,) and base scores (N,) that the score adds to, to the labels that a fit takes.
    """

    name: LikelihoodName
    outputs: int
    loss: Elementwise
    gradient: Elementwise
    curvature: Elementwise
    mean: Callable[[Tensor], Tensor]
    labels: str
    inside: Callable[[Array], Array]
    told: Callable[[Array, Array], Array] = lambda y, base: y

    def validate(self, y: Array) -> None:
        """Raise ModelError unless every label (N,) is finite and in range."""
        y = np.asarray(y)
        if y.ndim != 1 or y.dtype.kind not in "fiub":
            raise ModelError(
                f"likelihood {self.name} expects labels as numbers of shape (N,), got shape {y.shape} of {y.dtype}",
                remedy="pass one numeric label a row",
            )
        wrong = ~(np.isfinite(y) & self.inside(y))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"likelihood {self.name} expects labels {self.labels}, got {y[first]} in row {first} "
                f"({int(wrong.sum())} of {y.size} rows out of range)",
                remedy="correct the labels, or choose the likelihood that fits them",
            )


def _bernoulli() -> Likelihood:
    """y in {0, 1}, eta the logit."""

    def curvature(eta: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(eta) * torch.sigmoid(-eta)

    return Likelihood(
        "bernoulli",
        1,
        lambda eta, y: -logsigmoid((2 * y - 1) * eta),
        lambda eta, y: torch.sigmoid(eta) - y,
        curvature,
        torch.sigmoid,
        "0 or 1",
        lambda y: (y == 0) | (y == 1),
    )


def _hazard() -> Likelihood:
    """Discrete-time hazard on person-period rows with the complementary log-log link.

    A row is one subject at risk over one period (or a run of periods), eta the log of the hazard integrated over it:
    P(event) = 1 - exp(-exp(eta)). Under this link, and under no other, hazards of periods add: rows without the event
    collapse exactly to one row with eta = log sum exp(eta_period), and PD over a horizon is 1 - exp(-sum h).
    A censored subject, or one that leaves by a competing exit, is rows of y = 0 that simply stop.
    Prentice and Gloeckler (1978), Biometrics 34, 57-67.
    """

    def ratio(hazard: Tensor) -> Tensor:
        # h / (exp(h) - 1) in a form whose own derivatives do not overflow
        return hazard * torch.exp(-hazard) / -torch.expm1(-hazard)

    def loss(eta: Tensor, y: Tensor) -> Tensor:
        hazard = eta.exp()
        return (1 - y) * hazard - y * torch.log(-torch.expm1(-hazard))

    def gradient(eta: Tensor, y: Tensor) -> Tensor:
        hazard = eta.exp()
        return (1 - y) * hazard - y * ratio(hazard)

    def curvature(eta: Tensor, y: Tensor) -> Tensor:
        hazard = eta.exp()
        # h / (1 - exp(-h)) - 1 cancels for small h: Bernoulli's series there
        small = hazard.clamp(max=0.02)
        series = small / 2 + small**2 / 12 - small**4 / 720 + small**6 / 30240
        excess = torch.where(hazard < 0.02, series, hazard / -torch.expm1(-hazard) - 1)
        return (1 - y) * hazard + y * ratio(hazard) * excess

    return Likelihood(
        "hazard",
        1,
        loss,
        gradient,
        curvature,
        lambda eta: -torch.expm1(-eta.exp()),
        "0 or 1 (one row a subject and period at risk)",
        lambda y: (y == 0) | (y == 1),
    )


def _cumulative_hazard() -> Likelihood:
    """One row a subject: y tells whether the event ended its time at risk, eta is the log hazard summed over that time.

    The likelihood of proportional hazards in a score that shifts eta, h(T)^y exp(-H(T)), is Poisson's (Holford 1980,
    Biometrics 36, 299-305). Over a fixed horizon the probability of the event is 1 - exp(-exp(eta)).
    """
    poisson = _poisson()
    return replace(
        poisson,
        name="cumulative_hazard",
        mean=lambda eta: -torch.expm1(-eta.exp()),
        labels="0 or 1 (one row a subject)",
        inside=lambda y: (y == 0) | (y == 1),
    )


def _gaussian() -> Likelihood:
    """Unit variance: loss (y - eta)^2 / 2. A known noise variance enters as row weights 1 / variance."""
    return Likelihood(
        "gaussian",
        1,
        lambda eta, y: (eta - y) ** 2 / 2,
        lambda eta, y: eta - y,
        lambda eta, y: torch.ones_like(eta),
        lambda eta: eta,
        "finite",
        lambda y: np.ones(y.shape, dtype=bool),
    )


def _gaussian_mv() -> Likelihood:
    """Mean and log variance: eta = (m, v), loss (v + (y - m)^2 exp(-v)) / 2. Not jointly convex."""

    def loss(eta: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = eta.unbind(-1)
        return (log_variance + (y - mean) ** 2 * torch.exp(-log_variance)) / 2

    def gradient(eta: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = eta.unbind(-1)
        scaled = (y - mean) * torch.exp(-log_variance)
        return torch.stack([-scaled, (1 - scaled * (y - mean)) / 2], -1)

    def curvature(eta: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = eta.unbind(-1)
        precision = torch.exp(-log_variance)
        cross = (y - mean) * precision
        rows = [torch.stack([precision, cross], -1), torch.stack([cross, cross * (y - mean) / 2], -1)]
        return torch.stack(rows, -2)

    return Likelihood(
        "gaussian_mv",
        2,
        loss,
        gradient,
        curvature,
        lambda eta: eta[..., 0],
        "finite",
        lambda y: np.ones(y.shape, dtype=bool),
    )


def _qlike() -> Likelihood:
    """Realised variance y, eta the log of the forecast variance h: y / h - ln(y / h) - 1 without its terms in y.

    Patton (2011), Journal of Econometrics 160, 246-256: robust to noise in the proxy y.

    A label of 0 has no finite best score, and no curvature that would stop a fit on its way down. A fit takes it as the
    share LEAST_VARIANCE of the base's forecast: a segment of zeros ends at a hundredth of its base volatility. The mean
    of a squared normal return, which is the score's fixed point, moves by less than 1e-6 of itself.
    """
    return Likelihood(
        "qlike",
        1,
        lambda eta, y: y * torch.exp(-eta) + eta,
        lambda eta, y: 1 - y * torch.exp(-eta),
        lambda eta, y: y * torch.exp(-eta),
        torch.exp,
        ">= 0 (a realised variance)",
        lambda y: y >= 0,
        lambda y, base: np.maximum(y, LEAST_VARIANCE * np.exp(base)),
    )


def _poisson() -> Likelihood:
    """Count y with rate exp(eta); log exposure is an offset of eta."""
    return Likelihood(
        "poisson",
        1,
        lambda eta, y: eta.exp() - y * eta,
        lambda eta, y: eta.exp() - y,
        lambda eta, y: eta.exp(),
        torch.exp,
        ">= 0 (a count)",
        lambda y: y >= 0,
    )


def negative_binomial(size: float = 1.0) -> Likelihood:
    """Count y with mean mu = exp(eta) and variance mu + mu^2 / size (NB2); `size` to infinity gives Poisson.

    Raises ModelError unless size is positive and finite.
    """
    if not 0 < size < math.inf:
        raise ModelError(
            f"negative binomial expects a positive finite size, got {size}", remedy="give size > 0, or use poisson"
        )
    log_size = math.log(size)

    def curvature(eta: Tensor, y: Tensor) -> Tensor:
        centred = eta - log_size
        return (y + size) * torch.sigmoid(centred) * torch.sigmoid(-centred)

    return Likelihood(
        "negative_binomial",
        1,
        lambda eta, y: -y * logsigmoid(eta - log_size) - size * logsigmoid(log_size - eta),
        lambda eta, y: (y + size) * torch.sigmoid(eta - log_size) - y,
        curvature,
        torch.exp,
        ">= 0 (a count)",
        lambda y: y >= 0,
    )


def quantile(tau: float = 0.5, width: float = 0.01) -> Likelihood:
    """The `tau` quantile of y by the check loss, smoothed over `width` (in units of y) so that Newton's method works.

    loss = tau (y - eta) + width softplus((eta - y) / width), which tends to the check loss as width tends to 0; its
    minimiser is the exact quantile of y plus logistic noise of scale `width`. Zheng (2011), Int. J. Machine Learning
    and Cybernetics 2, 191-207. Raises ModelError unless 0 < tau < 1 and width > 0.
    """
    if not (0 < tau < 1 and 0 < width < math.inf):
        raise ModelError(
            f"quantile expects 0 < tau < 1 and width > 0, got tau {tau} and width {width}",
            remedy="for the 99 % value at risk of a loss give tau 0.99 and a width far below its spread",
        )

    def curvature(eta: Tensor, y: Tensor) -> Tensor:
        z = (eta - y) / width
        return torch.sigmoid(z) * torch.sigmoid(-z) / width

    return Likelihood(
        "quantile",
        1,
        lambda eta, y: tau * (y - eta) - width * logsigmoid((y - eta) / width),
        lambda eta, y: torch.sigmoid((eta - y) / width) - tau,
        curvature,
        lambda eta: eta,
        "finite",
        lambda y: np.ones(y.shape, dtype=bool),
    )


LIKELIHOODS: Mapping[LikelihoodName, Likelihood] = {
    likelihood.name: likelihood
    for likelihood in (
        _bernoulli(),
        _hazard(),
        _cumulative_hazard(),
        _gaussian(),
        _gaussian_mv(),
        _qlike(),
        _poisson(),
        negative_binomial(),
        quantile(),
    )
}

SHAPED: Mapping[str, tuple[Callable[..., Likelihood], frozenset[str]]] = {
    "quantile": (quantile, frozenset({"tau", "width"})),
    "negative_binomial": (negative_binomial, frozenset({"size"})),
}
"""Likelihoods that take options, and which."""


def with_options(name: LikelihoodName, options: Mapping[str, float]) -> Likelihood:
    """The likelihood of a name under its options; none give the one in LIKELIHOODS.

    Raises ModelError for an option that the likelihood does not have, or that is out of range.
    """
    if not options:
        return LIKELIHOODS[name]
    make, known = SHAPED.get(name, (None, frozenset()))
    if make is None or not set(options) <= known:
        raise ModelError(
            f"likelihood {name} expects options among {sorted(known)}, got {sorted(options)}",
            remedy="correct likelihood_options: tau and width belong to quantile, size to negative_binomial",
        )
    return make(**options)
