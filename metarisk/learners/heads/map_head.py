"""A hierarchical MAP head on a base score: level, slope and crossed effects of a segment key's parts and of their cell.

The algebra is `crossed.py`. Base scores of support rows must be out of fold, which is the caller's duty: in-sample ones
make adaptation worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

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
from metarisk.learners.heads.crossed import (
    Effects,
    Layout,
    Posterior,
    Priors,
    cell_scores,
    fit,
    lay_out,
    no_effects,
    row_scores,
)
from metarisk.learners.likelihoods import Likelihood, with_options
from metarisk.learners.options import require_range
from metarisk.learners.packing import check
from metarisk.learners.threads import one_thread

VARIANCE_ROUNDS = 500
VARIANCE_TOLERANCE = 1e-5
"""Relative change of every variance at which empirical Bayes stops."""
MANY, MOST_JUMP, FURTHER_TOLERANCE = 2_000, 2.0, 1e-7
"""Parents beyond which rounds are extrapolated, by how much of a logarithm at most, and the change at which these stop,
some 1e-5 from where all rounds would end. Up to there they go one by one, as they always have: a book's model keeps its
identity."""


@dataclass(frozen=True)
class MapHead:
    """Crossed MAP head with variances learned by empirical Bayes.

    A row with base score b in the segment with key (k_1, ..., k_L) scores

        eta = b + c [a0 + a1 (s - m) + u_1[k_1] + ... + u_L[k_L] + r[key]],

    with s = b, or a column of x: where exposure is part of b and ends with the event (months at risk collapsed to one
    row a loan), a slope on b would read the outcome off the exposure, so let it act on the score of the full horizon.
    All effects are normal around 0 and fitted jointly by Newton's method. Keys of one part have one effect, r. Cells
    are eliminated first and then, where there are many parents, the column of most values: the cost is linear in rows,
    cells and its values, and cubic in the number of values of all others up to `reduced.FACTORED`; beyond, linear.

    The variances of u and r solve s^2 (n + nu) = sum(u^2 + Var u) + nu s2: the stationary point of EM (Laplace) under a
    scaled inverse chi-square prior, on which they fall back where events are few. MacKay's fixed point reaches it
    (1992, Neural Computation 4, 415-447). nu fades as 1 / events^2 beyond `prior_events`, events being counted as the
    total curvature of the loss at the base scores, which is their expected number where they are rare.

    Attributes:
        damping: c, the share of the fitted effect that a score takes; None chooses it on the validation tasks.
        intercept_variance, slope_variance: of a0 and a1.
        prior_strength, prior_variance: nu and s2.
        prior_events: events up to which nu counts in full.
        slope_column: the column of x that is s; None for the base score itself.
        likelihood_options: `tau` and `width` of the quantile, or `size` of the negative binomial.

    Example:
        >>> import numpy as np
        >>> from metarisk.domain import Episodes, Packed
        >>> x, y = np.eye(4), np.array([1.0, 1.0, 0.0, 0.0])
        >>> rows = Packed((("north",), ("south",)), np.array([0, 3, 4]), x, y, np.ones(4), np.zeros(4))
        >>> learner = MapHead()
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> learner.adapt(state, rows, "bernoulli").arrays["intercept"].round(2)
        array([ 0.01, -0.01])
    """

    damping: float | None = 0.85
    intercept_variance: float = 0.25
    slope_variance: float = 0.05
    prior_strength: float = 30.0
    prior_variance: float = 0.03
    prior_events: float = 200.0
    slope_column: int | None = None
    likelihood_options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.damping is not None:
            require_range("damping", self.damping, least=0, most=1)
        for name in ("intercept_variance", "slope_variance", "prior_variance"):
            require_range(name, getattr(self, name), above=0, below=math.inf)
        for name in ("prior_strength", "prior_events"):
            require_range(name, getattr(self, name), least=0, below=math.inf)
        if self.slope_column is not None:
            require_range("slope_column", self.slope_column, least=0)

    @one_thread()
    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Learn the centre m, the variances and, where it is left open, the damping.

        A segment that appears at several cut-offs counts once, with support and query of its largest task. Nothing is
        random, so `seed` is not used. Raises ModelError for keys of unequal length or labels out of range, and
        DataError for rows that cannot be used.
        """
        head = _head(likelihood, self.likelihood_options)
        named = [(tasks, "tasks")] + ([] if validation is None else [(validation, "validation tasks")])
        for episodes, name in named:
            for part, packed in (("support", episodes.support), ("query", episodes.query)):
                self._check(packed, f"{part} of {name}")
                head.validate(packed.y)
        history = _history(tasks)
        score, weight = self._score(history), history.weight.astype(np.float64)
        # exact sums do not depend on the order of the rows
        centre = math.fsum(score * weight) / total if (total := math.fsum(weight)) > 0 else 0.0
        layout = lay_out(history, score, centre, head)
        priors = Priors(
            np.array([self.intercept_variance, self.slope_variance]),
            np.full(layout.parents.shape[1], self.prior_variance),
            self.prior_variance,
        )
        effects = start = no_effects(layout)
        strength, trail, many = self._strength(layout, head), [priors], layout.level.size > MANY
        for done in range(1, VARIANCE_ROUNDS + 1):
            before, (effects, posterior) = effects, fit(layout, priors, head, start, last=False)
            # rounds go on as they went, which saves large systems a Newton step; of small ones no bit is to change
            start = effects if layout.split is None or done == 1 else effects.plus(effects.plus(before, -1.0), 1.0)
            learned = self._variances(layout, priors, effects, posterior, strength)
            if likelihood == "gaussian":
                learned = replace(learned, noise=_noise(layout, effects, posterior))
            change = _change(priors, learned)
            trail = [*trail, learned]
            priors = learned
            if many and len(trail) == 3:
                trail = [priors := _further(*trail)]
            progress(done, VARIANCE_ROUNDS, f"variances changed by {change:.1e}")
            if change < (FURTHER_TOLERANCE if many else VARIANCE_TOLERANCE):
                break
        state = {
            "centre": np.array(centre),
            "damping": np.array(1.0 if self.damping is None else self.damping),
            "shared_variance": priors.shared,
            "parent_variance": priors.parents,
            "cell_variance": np.array(priors.cell),
            "noise_variance": np.array(priors.noise),
        }
        if self.damping is None and validation is not None and validation.query.rows:
            state["damping"] = np.array(self._choose_damping(state, validation, head))
        return state

    @one_thread()
    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """Fit the effects of all segments jointly, under the learned variances.

        Returns:
            By segment (S): the score is base + `intercept` + (`slope` - 1) s, an affine map of the base where s is the
            base. Its variance, from `variance` (S, 3), is v0 + 2 v1 d + v2 d^2 with d = s - m. The rest explains a
            score and serves unseen cells: `shared` (S, 2) holds a0 and a1 with `shared_covariance` (S, 3), `effects`
            (S, L + 1) the parents' and the cell's, and `parent_covariance` (S, L, 3) of each parent its variance and
            its covariances with a0 and a1. Damping is in intercept and slope only.
        """
        self._check(support, "support")
        head, priors, centre = _head(likelihood, self.likelihood_options), _priors(state), float(state["centre"])
        layout = lay_out(support, self._score(support), centre, head)
        if layout.keys and layout.parents.shape[1] != priors.parents.size:
            parts = [max(1, size) for size in (priors.parents.size, layout.parents.shape[1])]
            raise ModelError(
                f"the head learned segment keys of {parts[0]} parts, got keys of {parts[1]}",
                remedy="train again with the segment columns that are scored",
            )
        effects, posterior = fit(layout, priors, head, no_effects(layout))
        arrays = _arrays(layout, effects, posterior, centre, float(state["damping"]))
        number = {key: cell for cell, key in enumerate(layout.keys)}
        chosen = np.array([number[key] for key in support.keys], dtype=np.int64)
        return Adaptation(support.keys, {name: values[chosen] for name, values in arrays.items()})

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """Score (N,) and its posterior variance (N,).

        An unseen cell takes the effects of those of its parents that are known, and the prior variance of whatever is
        not; the covariance between its parents, which is small, is left out.
        """
        _head(likelihood, self.likelihood_options)
        self._check(rows, "rows to score")
        score = self._score(rows)
        distance = score - float(state["centre"])
        intercept, slope, v0, v1, v2 = _terms(state, adaptation, rows.keys)[rows.index].T
        return rows.base + intercept + (slope - 1) * score, v0 + 2 * v1 * distance + v2 * distance**2

    def _check(self, rows: Packed, name: str) -> None:
        """Raise DataError for rows that cannot be used; x is looked at where a column of it is read."""
        check(rows, name=name, inputs=self.slope_column is not None)

    def _score(self, rows: Packed) -> Array:
        """What the slope acts on (N,)."""
        if self.slope_column is None:
            return rows.base.astype(np.float64)
        if not 0 <= self.slope_column < rows.x.shape[1]:
            raise ModelError(
                f"slope_column expected in 0..{rows.x.shape[1] - 1}, got {self.slope_column}",
                remedy="name the column of x that holds the score of the full horizon, or leave slope_column out",
            )
        return rows.x[:, self.slope_column].astype(np.float64)

    def _strength(self, layout: Layout, head: Likelihood) -> float:
        """The weight nu of the prior on the variances, given the number of events."""
        curvature = head.curvature(torch.from_numpy(layout.base), torch.from_numpy(layout.y)).numpy()
        events = max(float(layout.weight @ curvature), 1e-12)
        return self.prior_strength * min(1.0, (self.prior_events / events) ** 2)

    def _variances(
        self, layout: Layout, priors: Priors, effects: Effects, posterior: Posterior, strength: float
    ) -> Priors:
        """One fixed-point step s^2 = (sum u^2 + nu s2) / (nu + n - sum Var u / s^2)."""

        def learned(values: Array, variances: Array, prior: float) -> float:
            determined = max(0.0, values.size - float(variances.sum()) / prior)
            return (float((values**2).sum()) + strength * self.prior_variance) / (strength + determined)

        variances = posterior.moments.parents[:, 0]
        parents = [
            learned(effects.parents[layout.level == j], variances[layout.level == j], float(prior))
            for j, prior in enumerate(priors.parents)
        ]
        cell = learned(effects.cells, posterior.cell_variance(), priors.cell)
        return replace(priors, parents=np.array(parents), cell=cell)

    def _choose_damping(self, state: Arrays, validation: Episodes, head: Likelihood) -> float:
        """The share of the effect, in twentieths, under which the validation tasks' later rows lose least."""
        rows = validation.query
        eta, _ = self.predict(state, self.adapt(state, validation.support, head.name), rows, head.name)
        y, base = torch.from_numpy(rows.y).double(), np.asarray(rows.base, dtype=np.float64)
        shares = np.linspace(0, 1, 21)
        losses = [float(head.loss(torch.from_numpy(base + c * (eta - base)), y).numpy() @ rows.weight) for c in shares]
        return float(shares[int(np.argmin(losses))])


def _head(name: LikelihoodName, options: Mapping[str, float]) -> Likelihood:
    likelihood = with_options(name, options)
    if likelihood.outputs != 1:
        raise ModelError(
            f"the hierarchical head expects a likelihood of one output, got {name}",
            remedy="use bernoulli, hazard, poisson, negative_binomial, qlike or gaussian",
        )
    return likelihood


def _priors(state: Arrays) -> Priors:
    return Priors(
        np.asarray(state["shared_variance"]),
        np.asarray(state["parent_variance"]),
        float(state["cell_variance"]),
        float(state["noise_variance"]),
    )


def _change(old: Priors, new: Priors) -> float:
    """Largest relative change of a variance."""
    pairs = [*zip(old.parents, new.parents, strict=True), (old.cell, new.cell), (old.noise, new.noise)]
    return max(abs(float(after / before) - 1) for before, after in pairs)


def _further(first: Priors, second: Priors, third: Priors) -> Priors:
    """Where three rounds point to, on the logarithms of the variances.

    SQUAREM, scheme S3 (Varadhan and Roland 2008, Scandinavian Journal of Statistics 35, 335-353): it reaches the point
    at which all rounds would end, and in hundreds stop short of where a variance is near zero, in a tenth of them.
    """
    a, b, c = (np.log([*each.parents, each.cell, each.noise]) for each in (first, second, third))
    step, bend = b - a, (c - b) - (b - a)
    length = max(1.0, float(np.linalg.norm(step)) / max(float(np.linalg.norm(bend)), 1e-12))
    found = np.exp(c + np.clip(a + 2 * length * step + length**2 * bend - c, -MOST_JUMP, MOST_JUMP))
    return replace(first, parents=found[:-2], cell=float(found[-2]), noise=float(found[-1]))


def _noise(layout: Layout, effects: Effects, posterior: Posterior) -> float:
    """Weighted residual variance over the weight that the effects have not used up."""
    v0, v1, v2 = posterior.score_variance()[layout.cell].T
    spread = v0 + 2 * v1 * layout.distance + v2 * layout.distance**2
    residual = float(layout.weight @ (layout.y - row_scores(layout, effects)) ** 2)
    return max((residual + float(layout.weight @ spread)) / max(float(layout.weight.sum()), 1e-12), 1e-12)


def _history(tasks: Episodes) -> Packed:
    """Support and query rows of the largest task of each key, laid end to end."""
    size = tasks.support.sizes + tasks.query.sizes
    largest: dict[SegmentKey, int] = {}
    for task, key in enumerate(tasks.support.keys):
        if key not in largest or size[task] >= size[largest[key]]:
            largest[key] = task
    chosen = list(largest.values())
    parts = (tasks.support.select(chosen), tasks.query.select(chosen))
    return Packed(
        parts[0].keys + parts[1].keys,
        np.concatenate([parts[0].starts, parts[1].starts[1:] + parts[0].rows]),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "weight", "base")),
    )


def _arrays(layout: Layout, effects: Effects, posterior: Posterior, centre: float, damping: float) -> dict[str, Array]:
    """The arrays of an adaptation, by cell (C)."""
    cells, levels = layout.parents.shape
    covariance, (a0, a1) = posterior.moments.shared, effects.shared
    shared = np.array([covariance[0, 0], covariance[0, 1], covariance[1, 1]])
    return {
        "intercept": damping * (cell_scores(layout, effects) - a1 * centre),
        "slope": np.full(cells, 1 + damping * a1),
        "variance": posterior.score_variance(),
        "shared": np.tile([a0, a1], (cells, 1)),
        "shared_covariance": np.tile(shared, (cells, 1)),
        "effects": np.concatenate([effects.parents[layout.parents], effects.cells[:, None]], axis=1),
        "parent_covariance": posterior.moments.parents[layout.parents].reshape(cells, levels, 3),
    }


def _terms(state: Arrays, adaptation: Adaptation, keys: tuple[SegmentKey, ...]) -> Array:
    """(len(keys), 5): intercept, slope and the three variance terms of each key."""
    arrays, known = adaptation.arrays, {key: i for i, key in enumerate(adaptation.keys)}
    table = np.column_stack([arrays["intercept"], arrays["slope"], arrays["variance"]])
    unseen = {key for key in keys if key not in known}
    if unseen:
        extra = _unseen(state, adaptation, sorted(unseen))
        known.update({key: table.shape[0] + i for i, key in enumerate(sorted(unseen))})
        table = np.concatenate([table, extra])
    return table[np.array([known[key] for key in keys], dtype=np.int64)]


def _unseen(state: Arrays, adaptation: Adaptation, keys: list[SegmentKey]) -> Array:
    """Terms of cells that the adaptation lacks: shared effects, known parents, prior variance of the rest."""
    priors, centre, damping = _priors(state), float(state["centre"]), float(state["damping"])
    arrays, levels = adaptation.arrays, priors.parents.size
    shared, variance = np.zeros(2), np.array([priors.shared[0], 0.0, priors.shared[1]])
    if adaptation.keys:
        shared, variance = arrays["shared"][0], arrays["shared_covariance"][0]
    rows = {(j, key[j]): i for i, key in enumerate(adaptation.keys) for j in range(levels)}
    out = np.empty((len(keys), 5))
    for i, key in enumerate(keys):
        level, terms = float(shared[0]), variance + np.array([priors.cell, 0.0, 0.0])
        for j in range(levels):
            row = rows.get((j, key[j])) if j < len(key) else None
            if row is None:
                terms = terms + np.array([priors.parents[j], 0.0, 0.0])
            else:
                own, with_intercept, with_slope = arrays["parent_covariance"][row, j]
                level += float(arrays["effects"][row, j])
                terms = terms + np.array([own + 2 * with_intercept, with_slope, 0.0])
        out[i] = [damping * (level - shared[1] * centre), 1 + damping * shared[1], *terms]
    return out
