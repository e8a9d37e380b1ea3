"""What gradient-based learners share: a network's start, how a base score and class weights enter, adapting, scoring.

How the start is meta-learned is in `maml` and `reptile`; the arithmetic is in `kernels` and its two siblings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import (
    Adaptation,
    Array,
    Arrays,
    ConfigError,
    Episodes,
    LikelihoodName,
    ModelError,
    Packed,
    Progress,
)
from metarisk.learners.episodic import numbered
from metarisk.learners.kernels.adapting import ACTIVATIONS, ActivationName, adapt_segments
from metarisk.learners.kernels.scoring import networks, score_rows
from metarisk.learners.likelihoods import Likelihood, with_options
from metarisk.learners.loop import Gradient, Loop, digest_of, fit
from metarisk.learners.options import require_choice, require_range
from metarisk.learners.packing import Fusion, canonical, canonical_order, check, first_rows, shuffled

RateKind = Literal["fixed", "step_layer", "parameter"]
"""Inner rates: one fixed number, one learned per step and layer (MAML++), or one learned per parameter (Meta-SGD)."""


@dataclass(frozen=True)
class GradientLearner(ABC):
    """A network whose start is meta-learned, and which gradient steps on a segment's support rows adapt.

    State arrays: `weight0`, `weight1`, ... (in + 1, out) with the bias as last row; learned rates as multiples of
    `inner_rate`, `rate` (steps, live layers) or `rate0`, ... (in + 1, out); `base`, mean and scale of the base score;
    `class_weight` (1,).
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: ActivationName = "relu"
    inner_steps: int = 5
    inner_rate: float = 0.1
    inner_momentum: float = 0.0
    """Momentum of the inner steps, in [0, 1). With it, or with a learned rate for every parameter, the inner optimiser
    is heavy ball, or gradient descent under a learned diagonal preconditioner."""
    rates: RateKind = "fixed"
    adapt_steps: int | None = None
    """Steps at adaptation, if not those of training; a learned rate of the last step serves for all later ones."""
    prior_rows: float = 0.0
    """Pseudo-rows that shrink a thin segment's steps by n / (n + prior_rows)."""
    safeguard: bool = False
    """A segment that the steps lead away from its own support rows keeps the start; one that diverged always does."""
    fusion: Fusion = "offset"
    class_weight: float | Literal["balanced"] = 1.0
    """Weight of positive rows in training and adapting (Bernoulli only); scores are corrected back."""
    likelihood_options: Mapping[str, float] = field(default_factory=dict)
    """`tau` and `width` of the quantile, or `size` of the negative binomial; see `likelihoods`."""
    support_rows: int = 32
    query_rows: int = 64
    """Rows of each task in a training step, a fresh window of them each time."""
    validation_rows: int = 512
    """Most support and query rows of a segment in the validation loss."""
    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("support_rows", "query_rows", "validation_rows", "inner_rate"):
            require_range(name, getattr(self, name), above=0)
        for name in ("inner_steps", "prior_rows"):
            require_range(name, getattr(self, name), least=0)
        if self.adapt_steps is not None:
            require_range("adapt_steps", self.adapt_steps, least=0)
        if self.class_weight != "balanced":
            require_range("class_weight", self.class_weight, above=0)
        require_range("inner_momentum", self.inner_momentum, least=0, below=1)
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("rates", self.rates, get_args(RateKind))
        require_choice("fusion", self.fusion, get_args(Fusion))

    @abstractmethod
    def gradient_of(self, tasks: Episodes, widths: tuple[int, ...], likelihood: LikelihoodName, seed: int) -> Gradient:
        """Losses and meta-gradients of a draw of prepared tasks, for the training loop."""

    def likelihood(self, name: LikelihoodName) -> Likelihood:
        """The likelihood of a name, under this learner's options."""
        return with_options(name, self.likelihood_options)

    @property
    def frozen(self) -> int:
        """Layers at the bottom that adaptation leaves alone."""
        return 0

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """See `domain.Learner.train`."""
        named = [(tasks, "tasks")] + ([(validation, "validation tasks")] if validation else [])
        for episodes, name in named:
            for part, packed in (("support", episodes.support), ("query", episodes.query)):
                check(packed, features=tasks.support.x.shape[1], name=f"{part} of {name}")
                self.likelihood(likelihood).validate(packed.y)
        # before anything is summed: rounding follows the order of the rows
        tasks = Episodes(*(canonical(part)[0] for part in (tasks.support, tasks.query)))
        fixed = self._fixed(tasks, likelihood)
        episodes = Episodes(*(self._prepared(part, fixed) for part in (tasks.support, tasks.query)))
        widths = (episodes.support.x.shape[1], *self.hidden, self.likelihood(likelihood).outputs)
        shuffle = Episodes(shuffled(episodes.support, [seed, 1]), shuffled(episodes.query, [seed, 2]))
        fitted = fit(
            self._start(widths, seed),
            self.gradient_of(shuffle, widths, likelihood, seed),
            tasks.support.keys,
            self.loop,
            seed=seed,
            progress=progress,
            sizes=tasks.support.sizes + tasks.query.sizes,
            validate=self._validate(validation, likelihood, fixed, seed),
            identity=""
            if self.loop.checkpoint is None
            else f"{replace(self, loop=Loop())} {likelihood} {digest_of(episodes.support, episodes.query)}",
        )
        return {**fitted.parameters, **fixed}

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """See `domain.Learner.adapt`."""
        weights = _tensors(state, "weight")
        check(support, features=self._features(state), name="support")
        self.likelihood(likelihood).validate(support.y)
        prepared = self._prepared(support, state)
        live = adapt_segments(
            weights,
            self._rates(state),
            prepared,
            canonical_order(prepared),
            self.likelihood(likelihood),
            activation=self.activation,
            frozen=self.frozen,
            prior_rows=self.prior_rows,
            momentum=self.inner_momentum,
            safeguard=self.safeguard,
        )
        arrays = {f"weight{self.frozen + layer}": tensor.numpy() for layer, tensor in enumerate(live)}
        return Adaptation(support.keys, arrays)

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """See `domain.Learner.predict`; of `gaussian_mv` the mean and the predicted variance."""
        outputs = self._outputs(state, adaptation, rows)
        return outputs[:, 0], np.exp(outputs[:, 1]) if outputs.shape[1] == 2 else None

    def _outputs(self, state: Arrays, adaptation: Adaptation, rows: Packed) -> Array:
        """All outputs of every row (N, outputs)."""
        check(rows, features=self._features(state), name="rows to score", inputs=False)
        start = _tensors(state, "weight")
        adapted = [torch.from_numpy(adaptation.arrays[f"weight{i}"]) for i in range(self.frozen, len(start))]
        # The last scores segments that were not adapted.
        known = networks(start[: self.frozen] + adapted)[: len(adaptation.keys)] + networks(start)
        place = {key: position for position, key in enumerate(adaptation.keys)}
        models = np.array([place.get(key, len(place)) for key in rows.keys], dtype=np.int64)
        mean, scale = state["base"]
        scores, sound = score_rows(
            known,
            models,
            rows if self.fusion != "none" else rows.with_base(np.zeros_like(rows.base)),
            extra=(lambda base: ((base - mean) / scale).astype(base.dtype)) if self.fusion == "feature" else None,
            activation=self.activation,
        )
        if not sound:
            check(rows, features=self._features(state), name="rows to score")
            raise ModelError("a score overflowed on finite inputs", remedy="check the units of the features")
        # Odds learned from positives that count c times are c times too high.
        shift = float(np.log(state["class_weight"][0]))
        if shift:
            scores -= shift
        return scores

    def _features(self, state: Arrays) -> int:
        return int(state["weight0"].shape[0]) - 1 - (self.fusion == "feature")

    def _fixed(self, tasks: Episodes, likelihood: LikelihoodName) -> dict[str, Array]:
        """What the state holds besides parameters: moments of the base score, and the class weight."""
        base = np.concatenate([tasks.support.base, tasks.query.base]).astype(np.float64)
        scale = base.std() if len(base) else 0.0
        moments = np.array([base.mean() if len(base) else 0.0, scale if scale > 0 else 1.0])
        weight = 1.0
        if self.class_weight != 1.0:
            if likelihood != "bernoulli":
                raise ConfigError(
                    f"class_weight {self.class_weight} needs the bernoulli likelihood, got {likelihood}",
                    remedy="leave class_weight at 1",
                )
            if self.class_weight == "balanced":
                y = np.concatenate([tasks.support.y, tasks.query.y])
                rows = np.concatenate([tasks.support.weight, tasks.query.weight])
                positive, negative = float(rows[y == 1].sum()), float(rows[y == 0].sum())
                weight = negative / positive if positive and negative else 1.0
            else:
                weight = float(self.class_weight)
        return {"base": moments, "class_weight": np.array([weight])}

    def _prepared(self, packed: Packed, fixed: Arrays) -> Packed:
        """The rows as the network sees them: base score fused, classes weighted."""
        weight = float(fixed["class_weight"][0])
        if weight != 1.0:
            packed = replace(packed, weight=np.where(packed.y == 1, packed.weight * weight, packed.weight))
        if self.fusion == "offset":
            return packed
        zeros = np.zeros_like(packed.base)
        if self.fusion == "none":
            return packed.with_base(zeros)
        mean, scale = fixed["base"]
        column = ((packed.base - mean) / scale).astype(packed.x.dtype)
        return replace(packed, x=np.column_stack([packed.x, column]), base=zeros)

    def _start(self, widths: tuple[int, ...], seed: int) -> dict[str, Array]:
        """He or Xavier weights, biases zero; with an offset the head is zero, so that training starts at the base."""
        rng = np.random.default_rng([seed, 0])
        gain = 2.0 if self.activation == "relu" else 1.0
        start = {}
        for layer, (inputs, outputs) in enumerate(pairwise(widths)):
            weight = rng.normal(size=(inputs + 1, outputs)) * np.sqrt(gain / max(inputs, 1))
            weight[-1] = 0.0
            if layer == len(widths) - 2 and self.fusion == "offset":
                weight[:] = 0.0
            start[f"weight{layer}"] = weight
        live = range(self.frozen, len(widths) - 1)
        if self.rates == "step_layer":
            start["rate"] = np.ones((self.inner_steps, len(live)))
        elif self.rates == "parameter":
            start |= {f"rate{layer}": np.ones_like(start[f"weight{layer}"]) for layer in live}
        return start

    def _rates(self, state: Arrays) -> list[list[float | Tensor]]:
        """Rates [step][live layer] of adaptation."""
        steps = self.inner_steps if self.adapt_steps is None else self.adapt_steps
        live = len(_tensors(state, "weight")) - self.frozen
        if self.rates == "parameter":
            return [[self.inner_rate * rate for rate in _tensors(state, "rate")]] * steps
        if self.rates == "fixed":
            return [[float(self.inner_rate)] * live] * steps
        learned = [[self.inner_rate * float(rate) for rate in row] for row in state["rate"]]
        return [list(learned[min(step, len(learned) - 1)]) for step in range(steps)]

    def _validate(
        self, validation: Episodes | None, likelihood: LikelihoodName, fixed: Arrays, seed: int
    ) -> Callable[[Arrays], float] | None:
        """Mean loss of validation query rows after adapting to validation support, as a night would."""
        if validation is None or not validation.query.rows:
            return None
        validation = numbered(validation)
        support = first_rows(shuffled(validation.support, [seed, 3]), self.validation_rows)
        query = first_rows(shuffled(validation.query, [seed, 4]), self.validation_rows)
        labels, weight = torch.from_numpy(query.y).double(), torch.from_numpy(query.weight).double()
        if not float(weight.sum()) > 0:
            return None

        def loss(parameters: Arrays) -> float:
            state = {**parameters, **fixed}
            scores = torch.from_numpy(self._outputs(state, self.adapt(state, support, likelihood), query)).double()
            losses = self.likelihood(likelihood).loss(scores.squeeze(-1) if scores.shape[1] == 1 else scores, labels)
            return float((losses * weight).sum() / weight.sum())

        return loss


def _tensors(state: Arrays, name: str) -> list[Tensor]:
    """`name0`, `name1`, ... of a state, in order, from the first that exists."""
    found = sorted((int(key.removeprefix(name)), key) for key in state if key.removeprefix(name).isdigit())
    return [torch.from_numpy(np.asarray(state[key])) for _, key in found if key.startswith(name)]
