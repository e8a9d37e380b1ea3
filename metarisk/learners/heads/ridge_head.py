"""Ridge head: a linear regression a segment in closed form, on a learned body and with a learned ridge.

Bertinetto, Henriques, Torr and Vedaldi (2019), "R2-D2", arXiv 1805.08136. For another likelihood, see `map_head`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Adaptation, Array, Arrays, Episodes, LikelihoodName, Packed, Progress, SegmentKey
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
from metarisk.learners.options import require_range
from metarisk.learners.packing import Block, Fusion, canonical_order, check


@dataclass(frozen=True)
class RidgeHead:
    """Weights w = mean + (F' W F + ridge I)^-1 F' W (target - F mean) on features F = [1, base - centre, body(x)].

    Gaussian likelihood: the target is the label less the offset, and the score is offset + F w, with the variance of
    the Gaussian posterior. Bernoulli: the target is the label less the pooled probability, and the score is the logit
    offset + bias + scale F w with learned bias and scale, without variance. Body, mean, ridge, bias and scale minimise
    the loss of query rows; the solution is differentiated through as it stands, K x K or n x n, whichever is smaller.

    Attributes:
        hidden: widths of the body's layers; none: the features are x itself.
        fusion: how the base score enters; "none" also removes it from the features.
        ridge: before training.
        support_rows, query_rows: most rows of a task in one training step.
        loop: the training loop; its precision is also that of adaptation.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = RidgeHead(hidden=(), loop=Loop(steps=2, device="cpu"))
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> learner.adapt(state, rows, "bernoulli").arrays["weights"].shape
        (2, 6)
    """

    hidden: tuple[int, ...] = (64,)
    fusion: Fusion = "offset"
    ridge: float = 10.0
    support_rows: int = 128
    query_rows: int = 128
    loop: Loop = field(default_factory=lambda: Loop(rate=3e-3, graph=False))

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        require_head(self.hidden, self.fusion, self.support_rows, self.query_rows)
        require_range("ridge", self.ridge, above=0, below=math.inf)

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Learn body, mean and ridge. Raises ModelError on divergence or for any other likelihood."""
        loss = self._likelihood(likelihood)
        tasks = prepare(tasks, loss)
        centre = centre_of(tasks.support)
        extra = {"centre": np.array(centre), "noise": np.array(1.0)}
        start = start_head(tasks.support.x.shape[1], self.hidden, self.fusion, np.random.default_rng(seed))
        start |= {"log_ridge": np.array(np.log(self.ridge)), "bias": np.array(0.0), "log_scale": np.array(np.log(4.0))}
        if likelihood == "bernoulli":
            start["mean"] = np.zeros_like(start["mean"])

        def losses(parameters: Parameters, support: Block, query: Block) -> Tensor:
            weights, _ = self._solve(parameters, support, centre, loss)
            features = head_features(parameters, query.x, query.base - centre, self.fusion)
            linear = (features @ weights.unsqueeze(-1)).squeeze(-1)
            return mean_loss(loss, self._score(parameters, linear, query.base, loss), query)

        state = meta_train(self, tasks, start, losses, extra, validation, loss, seed=seed, progress=progress)
        if likelihood == "gaussian":
            state["noise"] = np.array(noise_of(self, state, tasks))
        return state

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """Arrays `weights` (S, K), features in the order constant, base, body; if Gaussian, `covariance` (S, K, K)."""
        loss = self._likelihood(likelihood)
        loss.validate(support.y)
        rows = check(support, features=head_inputs(state, self.fusion), name="support")
        parameters, centre = as_tensors(state, self.loop.dtype), float(state["centre"])
        mean = parameters["mean"]
        weights = mean.repeat(len(rows.keys), 1)
        covariance = self._prior(parameters).repeat(len(rows.keys), 1, 1)
        for chosen, block in blocks(rows, len(mean), self.loop.dtype, canonical_order(rows)):
            weights[chosen], covariance[chosen] = self._solve(parameters, block, centre, loss)
        arrays = {"weights": weights.numpy()}
        if likelihood == "gaussian":
            arrays["covariance"] = covariance.numpy() * float(state["noise"])
        return Adaptation(support.keys, arrays)

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """Score (N,) and, for the Gaussian likelihood, its posterior variance (N,)."""
        loss = self._likelihood(likelihood)
        check(rows, features=head_inputs(state, self.fusion))
        parameters = as_tensors(state, self.loop.dtype)
        known = {key: number for number, key in enumerate(adaptation.keys)}
        prior = self._prior(parameters) * float(state["noise"]) if likelihood == "gaussian" else None

        def head_of(key: SegmentKey) -> tuple[Tensor, Tensor | None]:
            if key not in known:
                return parameters["mean"], prior
            found = {name: torch.from_numpy(values[known[key]]) for name, values in adaptation.arrays.items()}
            return found["weights"], found.get("covariance")

        linear, variance = score_heads(parameters, rows, head_of, self.fusion, float(state["centre"]))
        base = torch.from_numpy(rows.base).double()
        return self._score(as_tensors(state, torch.float64), torch.from_numpy(linear), base, loss).numpy(), variance

    def _likelihood(self, name: LikelihoodName) -> Likelihood:
        return single_output(name, "the ridge head", frozenset({"bernoulli", "gaussian"}))

    def _offset(self, base: Tensor) -> Tensor:
        return base if self.fusion == "offset" else torch.zeros_like(base)

    def _score(self, parameters: Parameters, linear: Tensor, base: Tensor, likelihood: Likelihood) -> Tensor:
        """Score (B, n) of what the head says, `linear` (B, n)."""
        if likelihood.name == "gaussian":
            return self._offset(base) + linear
        return self._offset(base) + parameters["bias"] + torch.exp(parameters["log_scale"]) * linear

    @staticmethod
    def _prior(parameters: Parameters) -> Tensor:
        """Covariance (K, K) of a segment without rows, in units of the noise."""
        size = parameters["mean"].numel()
        return torch.eye(size, dtype=parameters["mean"].dtype) * torch.exp(-parameters["log_ridge"])

    def _solve(
        self, parameters: Parameters, block: Block, centre: float, likelihood: Likelihood
    ) -> tuple[Tensor, Tensor]:
        """Weights (B, K) and posterior covariance (B, K, K) in units of the noise."""
        offset, mean, ridge = self._offset(block.base), parameters["mean"], torch.exp(parameters["log_ridge"])
        pooled = offset if likelihood.name == "gaussian" else torch.sigmoid(offset + parameters["bias"])
        features = head_features(parameters, block.x, block.base - centre, self.fusion)
        root = block.weight.sqrt().unsqueeze(-1)
        weighted, target = features * root, (block.y - pooled - features @ mean).unsqueeze(-1) * root
        width, rows = features.shape[2], features.shape[1]
        eye = torch.eye(min(width, rows), dtype=features.dtype, device=features.device)
        crossed = weighted.transpose(1, 2)
        if width <= rows:
            covariance = torch.linalg.inv(crossed @ weighted + ridge * eye)
            return mean + (covariance @ (crossed @ target)).squeeze(-1), covariance
        inverse = torch.linalg.inv(weighted @ crossed + ridge * eye)
        whole = torch.eye(width, dtype=features.dtype, device=features.device)
        covariance = (whole - crossed @ inverse @ weighted) / ridge
        return mean + (crossed @ (inverse @ target)).squeeze(-1), covariance
