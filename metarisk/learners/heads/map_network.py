"""MAP head: a generalised linear model a segment, under a Gaussian prior learned across segments, on a shared body.

The inner problem is convex and solved by Newton's method; training differentiates its solution by the implicit function
theorem, so no iteration is unrolled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import (
    Adaptation,
    Array,
    Arrays,
    Episodes,
    LikelihoodName,
    ModelError,
    Packed,
    Progress,
    SegmentKey,
)
from metarisk.learners.episodic import (
    as_tensors,
    blocks,
    centre_of,
    head_features,
    head_inputs,
    mean_loss,
    meta_train,
    noise_of,
    prepare,
    require_head,
    score_heads,
    single_output,
    start_head,
)
from metarisk.learners.likelihoods import Likelihood
from metarisk.learners.loop import Loop, Parameters
from metarisk.learners.options import require_choice, require_range
from metarisk.learners.packing import Block, Fusion, canonical_order, check

NEWTON_STEPS = 100
REFRESH_EVERY = 10
"""Steps that share a second derivative: fewer cost more factors, more are slower where it changes fast (Poisson)."""
FIRST_STEPS = 3
"""Newton steps along the constant's weight before any other moves."""
HALVINGS = 30
_TINY = 1e-30
"""Keeps 0 / 0 of a problem that is solved at 0."""


class Problem(NamedTuple):
    """B inner problems side by side.

    Shapes: features (B, n, K); y, weight and offset (B, n); mean (K,) and precision (K, K) of the prior.
    """

    features: Tensor
    y: Tensor
    weight: Tensor
    offset: Tensor
    mean: Tensor
    precision: Tensor

    def those(self, chosen: Tensor) -> Problem:
        """Some of the problems, by a mask (B,)."""
        features, y, weight, offset = (part[chosen] for part in (self.features, self.y, self.weight, self.offset))
        return self._replace(features=features, y=y, weight=weight, offset=offset)

    def scores(self, weights: Tensor) -> Tensor:
        """(B, n) scores under weights (B, K)."""
        return self.offset + self.moved(weights)

    def moved(self, step: Tensor) -> Tensor:
        """(B, n) change of the scores by a step (B, K)."""
        change: Tensor = (step.unsqueeze(1) @ self.features.transpose(1, 2)).squeeze(1)
        return change

    def objective(self, likelihood: Likelihood, weights: Tensor, eta: Tensor) -> Tensor:
        """Negative log posterior (B,)."""
        deviation = weights - self.mean
        return (self.weight * likelihood.loss(eta, self.y)).sum(1) + ((deviation @ self.precision) * deviation).sum(
            1
        ) / 2

    def gradient(self, likelihood: Likelihood, weights: Tensor, eta: Tensor) -> Tensor:
        """Of the objective, (B, K)."""
        slope = (self.weight * likelihood.gradient(eta, self.y)).unsqueeze(1)
        gradient: Tensor = (slope @ self.features).squeeze(1) + (weights - self.mean) @ self.precision
        return gradient

    def factor(self, likelihood: Likelihood, eta: Tensor, room: Tensor | None = None) -> Tensor:
        """Upper Cholesky factor (B, K, K) of the objective's second derivative; `room` like the features saves memory.

        The upper one is what the library's columns make of rows in memory: 2.6 times as fast as the lower.
        """
        bend = (self.weight * likelihood.curvature(eta, self.y)).unsqueeze(-1)
        weighted = torch.mul(self.features, bend, out=room)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex((weighted.mT @ self.features).add_(self.precision), upper=True)
        if bool(failed.any()):
            raise ModelError(
                f"the second derivative of {int((failed > 0).sum())} of {len(failed)} MAP heads is not positive",
                remedy="look for features of extreme size, or train with precision float64",
            )
        return factor


def solve(problem: Problem, likelihood: Likelihood) -> tuple[Tensor, Tensor]:
    """MAP weights (B, K) and the upper Cholesky factor (B, K, K) of the posterior precision.

    The second derivative, which costs K times a gradient, is taken anew in a few steps only (Shamanskii 1967); between
    them steps are conjugate (Polak and Ribiere 1969) under the last one, each of the length that Newton's method gives
    along it. A last full Newton step at the solution makes the result exact. Converged problems stand still while
    others go on, so none depends on its neighbours; where a quarter of them stand, the others go on without them.
    """
    whole = problem
    room = torch.empty_like(problem.features)
    tolerance = 1e-8 if problem.features.dtype == torch.float64 else 1e-3
    weights = problem.mean.expand(len(problem.y), -1).clone()
    eta, value = _along_first(problem, likelihood, weights)
    moving = torch.ones_like(value, dtype=torch.bool)
    step = gradient = torch.zeros_like(weights)
    slope = torch.ones_like(value)
    left = torch.arange(len(value), device=value.device)
    solved, reached = weights.clone(), eta.clone()
    for number in range(NEWTON_STEPS):
        before, last = gradient, slope
        gradient = problem.gradient(likelihood, weights, eta)
        if number % REFRESH_EVERY == 0:
            factor = problem.factor(likelihood, eta, room)
            step = torch.zeros_like(weights)
        newton = _solved(factor, gradient)
        slope = (newton * gradient).sum(1)
        kept = (slope - (newton * before).sum(1)) / last.clamp_min(_TINY)
        step = newton + step * kept.clamp_min(0.0).unsqueeze(1)
        point = _descended(problem, likelihood, (weights, eta, value), gradient, step, moving)
        # a step that is small leaves an error that is smaller still, and the last one squares it
        moving = moving & (newton.abs().amax(1) > tolerance * (1 + weights.abs().amax(1)))
        weights, eta, value = point
        still = int(moving.sum())
        if 4 * still <= 3 * len(moving):
            solved[left], reached[left] = weights, eta
            if still == 0:
                break
            problem, left, room = problem.those(moving), left[moving], room[:still]
            weights, eta, value, step, newton, gradient, slope, factor = (
                each[moving] for each in (weights, eta, value, step, newton, gradient, slope, factor)
            )
            moving = moving[moving]
    else:
        if bool((newton.abs().amax(1) > 0.01 * (1 + weights.abs().amax(1)))[moving].any()):
            raise ModelError(
                f"a MAP head did not converge in {NEWTON_STEPS} Newton steps",
                remedy="look for features or weights of extreme size",
            )
        solved[left], reached[left] = weights, eta
    factor = whole.factor(likelihood, reached)
    return solved - _solved(factor, whole.gradient(likelihood, solved, reached)), factor


def _descended(
    problem: Problem,
    likelihood: Likelihood,
    point: tuple[Tensor, Tensor, Tensor],
    gradient: Tensor,
    step: Tensor,
    moving: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, scores and objective after those problems that move went down along `step` (B, K)."""
    weights, eta, value = point
    direction = problem.moved(step)
    bend = (problem.weight * likelihood.curvature(eta, problem.y) * direction**2).sum(1)
    bend = bend + ((step @ problem.precision) * step).sum(1)
    share = torch.where(moving, (step * gradient).sum(1) / bend.clamp_min(_TINY), torch.zeros_like(bend))
    for _ in range(HALVINGS):
        trial = torch.addcmul(weights, share.unsqueeze(1), step, value=-1)
        trial_eta = torch.addcmul(eta, share.unsqueeze(1), direction, value=-1)
        trial_value = problem.objective(likelihood, trial, trial_eta)
        # rounding may lift the objective of a problem that is all but solved
        worse = ~(trial_value <= value + 1e-6 * value.abs()) & moving
        if not bool(worse.any()):
            break
        share = torch.where(worse, share / 2, share)
    return trial, trial_eta, trial_value


def _along_first(problem: Problem, likelihood: Likelihood, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Move the first weight alone, the constant's, in place; scores (B, n) and objective (B,) there.

    It costs no pass over the features, and brings the first second derivative near that of the solution.
    """
    column = problem.features[..., 0].contiguous()
    start = problem.scores(weights)
    moved = torch.zeros(len(start), 1, dtype=start.dtype, device=start.device)
    stiffness = problem.precision[0, 0]
    eta = start
    for _ in range(FIRST_STEPS):
        slope = (problem.weight * likelihood.gradient(eta, problem.y) * column).sum(1, keepdim=True)
        bend = (problem.weight * likelihood.curvature(eta, problem.y) * column**2).sum(1, keepdim=True)
        moved = moved - ((slope + stiffness * moved) / (bend + stiffness)).clamp(-1.0, 1.0)
        eta = start + moved * column
    before, trial = problem.objective(likelihood, weights, start), weights.clone()
    trial[:, :1] += moved
    after = problem.objective(likelihood, trial, eta)
    better = (after <= before).unsqueeze(1)
    weights.copy_(torch.where(better, trial, weights))
    return torch.where(better, eta, start), torch.where(better[:, 0], after, before)


def _solved(factor: Tensor, right: Tensor) -> Tensor:
    """(B, K) solutions of factor' factor z = right."""
    return torch.cholesky_solve(right.unsqueeze(-1), factor, upper=True).squeeze(-1)


@dataclass(frozen=True)
class MapNetwork:
    """A head w ~ N(mean, covariance) a segment, on features [1, base - centre, body(x)].

    The score is w' features, plus the base score where `fusion` is "offset". Mean, covariance and body minimise the
    loss of query rows after adaptation to support rows: with g(w*, theta) = 0 at the solution and H its derivative in
    w, dw*/dtheta = -H^-1 dg/dtheta (implicit function theorem; see Rajeswaran et al., arXiv 1909.04630). The variance
    is that of the Laplace posterior.

    Attributes:
        hidden: widths of the body's layers; none: the features are x itself.
        fusion: how the base score enters; "none" also removes it from the features.
        prior: whether the learned covariance is diagonal or full.
        prior_scale: standard deviation of every weight before training.
        likelihood_options: `tau` and `width` of the quantile, or `size` of the negative binomial.
        support_rows, query_rows: most rows of a task in one training step.
        loop: the training loop; its precision is also that of adaptation.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = MapNetwork(hidden=(), loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> learner.adapt(state, rows, "bernoulli").arrays["weights"].shape
        (2, 6)
    """

    hidden: tuple[int, ...] = ()
    fusion: Fusion = "offset"
    prior: Literal["diagonal", "full"] = "diagonal"
    prior_scale: float = 0.3
    likelihood_options: Mapping[str, float] = field(default_factory=dict)
    support_rows: int = 128
    query_rows: int = 128
    loop: Loop = field(default_factory=lambda: Loop(rate=1e-2, graph=False))

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        require_head(self.hidden, self.fusion, self.support_rows, self.query_rows)
        require_choice("prior", self.prior, ("diagonal", "full"))
        require_range("prior_scale", self.prior_scale, above=0, below=math.inf)

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Learn body, prior mean and prior covariance. Raises ModelError on divergence, DataError on bad rows."""
        loss = self._likelihood(likelihood)
        tasks = prepare(tasks, loss)
        tasks = replace(tasks, support=self._told(tasks.support, loss))
        centre = centre_of(tasks.support)
        rng = np.random.default_rng(seed)
        start = self._start(tasks.support.x.shape[1], rng)
        extra = {"centre": np.array(centre), "noise": np.array(1.0)}

        def losses(parameters: Parameters, support: Block, query: Block) -> Tensor:
            weights = self._implicit(parameters, self._problem(parameters, support, centre), loss)
            scored = self._problem(parameters, query, centre)
            return mean_loss(loss, scored.scores(weights), query)

        state = meta_train(self, tasks, start, losses, extra, validation, loss, seed=seed, progress=progress)
        if likelihood == "gaussian":
            # the loss has unit variance: the residual's own gives the posterior its scale
            state["noise"] = np.array(noise_of(self, state, tasks))
        return state

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """MAP weights of every segment.

        Returns:
            By segment: `weights` (S, K), features in the order constant, base, body; and `covariance` (S, K, K) of the
            Laplace posterior.
        """
        loss = self._likelihood(likelihood)
        loss.validate(support.y)
        rows = self._told(check(support, features=head_inputs(state, self.fusion), name="support"), loss)
        parameters, centre = as_tensors(state, self.loop.dtype), float(state["centre"])
        mean, precision = parameters["mean"], self._precision(parameters)
        weights = mean.repeat(len(rows.keys), 1)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision)).repeat(len(rows.keys), 1, 1)
        for chosen, block in blocks(rows, len(mean), self.loop.dtype, canonical_order(rows)):
            found, factor = solve(self._problem(parameters, block, centre), loss)
            # symmetric, so its transpose is itself, and stands in memory as the result does
            weights[chosen], covariance[chosen] = found, torch.cholesky_inverse(factor, upper=True).mT
        covariance *= float(state["noise"])
        return Adaptation(support.keys, {"weights": weights.numpy(), "covariance": covariance.numpy()})

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """Score (N,) and its posterior variance (N,); an unseen segment has the prior's weights."""
        self._likelihood(likelihood)
        check(rows, features=head_inputs(state, self.fusion))
        parameters, centre = as_tensors(state, self.loop.dtype), float(state["centre"])
        prior = torch.cholesky_inverse(torch.linalg.cholesky(self._precision(parameters))) * float(state["noise"])
        known = {key: number for number, key in enumerate(adaptation.keys)}

        def head_of(key: SegmentKey) -> tuple[Tensor, Tensor]:
            if key not in known:
                return parameters["mean"], prior
            weights, covariance = (adaptation.arrays[name][known[key]] for name in ("weights", "covariance"))
            return torch.from_numpy(weights), torch.from_numpy(covariance)

        eta, variance = score_heads(parameters, rows, head_of, self.fusion, centre)
        return eta + rows.base if self.fusion == "offset" else eta, variance

    def _told(self, support: Packed, likelihood: Likelihood) -> Packed:
        """Support with the labels that a fit takes, where the base is part of the score."""
        return replace(support, y=likelihood.told(support.y, support.base)) if self.fusion == "offset" else support

    def _likelihood(self, name: LikelihoodName) -> Likelihood:
        return single_output(name, "the MAP head", options=self.likelihood_options)

    def _start(self, inputs: int, rng: np.random.Generator) -> dict[str, Array]:
        start = start_head(inputs, self.hidden, self.fusion, rng)
        start["log_precision"] = np.full(start["mean"].size, -2 * np.log(self.prior_scale))
        if self.prior == "full":
            start["lower"] = np.zeros((start["mean"].size,) * 2)
        return start

    def _precision(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """(K, K), with diagonal factor exp(log_precision / 2) and, for a full prior, what stands below it."""
        factor = torch.diag(torch.exp(parameters["log_precision"] / 2))
        if self.prior == "full":
            factor = factor + torch.tril(parameters["lower"], -1)
        return factor @ factor.T

    def _problem(self, parameters: Mapping[str, Tensor], block: Block, centre: float) -> Problem:
        offset = block.base if self.fusion == "offset" else torch.zeros_like(block.base)
        features = head_features(parameters, block.x, block.base - centre, self.fusion)
        return Problem(features, block.y, block.weight, offset, parameters["mean"], self._precision(parameters))

    def _implicit(self, parameters: Mapping[str, Tensor], problem: Problem, likelihood: Likelihood) -> Tensor:
        """The solution with its derivative: one Newton step at the solution in which the Hessian is a constant."""
        with torch.no_grad():
            weights, _ = solve(problem, likelihood)
            # that of `solve` is from before its last step: in float32 the gradient was up to .005 off by it
            factor = problem.factor(likelihood, problem.scores(weights))
        return weights - _solved(factor, problem.gradient(likelihood, weights, problem.scores(weights)))
