"""What the closed-form and the metric learners share: a body network, training on windows of tasks, ragged blocks.

The loop itself is `loop`; what an adapted segment is, each learner says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array, Arrays, Episodes, Learner, LikelihoodName, ModelError, Packed, Progress, SegmentKey
from metarisk.learners.likelihoods import LIKELIHOODS, Likelihood, with_options
from metarisk.learners.loop import Draw, Loop, Parameters, by_autograd, digest_of, fit
from metarisk.learners.options import require_choice, require_range
from metarisk.learners.packing import Block, Fusion, Store, canonical, check, shuffled

BLOCK_NUMBERS = 1 << 20
"""Numbers in one block of inputs or features when segments are adapted: keeps memory flat. Smaller ones stay in the
cache, but cost more in calls than that saves."""
SCORE_ROWS = 4096
"""Rows of a segment that are scored at once."""


def require_head(hidden: tuple[int, ...], fusion: str, support_rows: int, query_rows: int) -> None:
    """Raise ConfigError unless the settings that heads and metric learners share are in range."""
    require_choice("fusion", fusion, get_args(Fusion))
    for width in hidden:
        require_range("hidden", width, least=1)
    require_range("support_rows", support_rows, least=1)
    require_range("query_rows", query_rows, least=1)


def single_output(
    name: LikelihoodName,
    learner: str,
    allowed: frozenset[str] | None = None,
    options: Mapping[str, float] | None = None,
) -> Likelihood:
    """The likelihood under its options, or a ModelError where the learner cannot use it."""
    likelihood = with_options(name, options or {})
    if likelihood.outputs != 1 or (allowed is not None and name not in allowed):
        names = sorted(allowed) if allowed is not None else [n for n, one in LIKELIHOODS.items() if one.outputs == 1]
        raise ModelError(
            f"{learner} expects a likelihood among {', '.join(names)}, got {name}",
            remedy="choose another learner or another likelihood",
        )
    return likelihood


def start_body(inputs: int, widths: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
    """Weights (in + 1, out) of each layer, the bias as last row; He (2015) scale."""
    body = {}
    for number, width in enumerate(widths):
        weights = rng.normal(size=(inputs + 1, width)) * np.sqrt(2 / max(inputs, 1))
        weights[-1] = 0.0
        body[f"body.{number}"] = weights
        inputs = width
    return body


def apply_body(parameters: Parameters, x: Tensor, *, last_linear: bool) -> Tensor:
    """Output of the layers (..., out) on x (..., in), ReLU between them and, unless `last_linear`, after them."""
    count = sum(name.startswith("body.") for name in parameters)
    layers = [parameters[f"body.{number}"] for number in range(count)]
    for number, weights in enumerate(layers):
        wide = aligned(weights)
        x = torch.nn.functional.linear(x, wide[:-1].T, wide[-1])[..., : weights.shape[1]]
        if number + 1 < len(layers) or not last_linear:
            x = x.relu_()
    return x


def aligned(x: Tensor) -> Tensor:
    """The same with zeros up to a multiple of 4 columns: a product of other width rounds a row by where it stands.

    Seen of MKL with x (m, K) @ w (K, N) for N <= 10 in float32 and for odd N in float64.
    """
    spare = -x.shape[-1] % 4
    return torch.nn.functional.pad(x, (0, spare)) if spare else x


def whole(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function of x (...), rounded alike wherever a number stands.

    Torch takes a vector's width at a time, 32 numbers at most, and what is left at the end by another formula.
    """
    spare = -x.numel() % 32
    if not spare:
        return function(x)
    return function(torch.nn.functional.pad(x.reshape(-1), (0, spare)))[: x.numel()].reshape(x.shape)


def head_features(parameters: Parameters, x: Tensor, base: Tensor, fusion: Fusion) -> Tensor:
    """What a linear head weighs, (..., K): one, the centred base (...,) unless `fusion` is "none", and the body's
    outputs on x (..., D)."""
    columns = [torch.ones_like(base).unsqueeze(-1)]
    if fusion != "none":
        columns.append(base.unsqueeze(-1))
    return torch.cat([*columns, apply_body(parameters, x, last_linear=False)], -1)


def start_head(inputs: int, hidden: tuple[int, ...], fusion: Fusion, rng: np.random.Generator) -> dict[str, Array]:
    """A body, and the mean (K,) of linear heads on its features: it scores the base, or 0 where there is none."""
    mean = np.zeros(1 + (fusion != "none") + (hidden[-1] if hidden else inputs))
    if fusion == "feature":
        mean[1] = 1.0
    return {**start_body(inputs, hidden, rng), "mean": mean}


def head_inputs(state: Arrays, fusion: Fusion) -> int:
    """Columns of x that a head and its body were trained on."""
    return int(state["body.0"].shape[0] if "body.0" in state else state["mean"].size - (fusion != "none")) - 1


def score_heads(
    parameters: Parameters,
    rows: Packed,
    head_of: Callable[[SegmentKey], tuple[Tensor, Tensor | None]],
    fusion: Fusion,
    centre: float,
) -> tuple[Array, Array | None]:
    """Scores (N,) under linear heads, without offset, and their variances.

    Args:
        parameters: of the body.
        rows: what to score.
        head_of: weights (K,) of a segment and their covariance (K, K) or None.
        fusion, centre: how the base score enters the features.
    """
    eta, variance, dtype = np.empty(rows.rows), np.empty(rows.rows), parameters["mean"].dtype
    stated = True
    for segment, key in enumerate(rows.keys):
        weights, covariance = head_of(key)
        for part, block in scored_blocks(rows, segment, SCORE_ROWS, dtype):
            features = head_features(parameters, block.x[0], block.base[0] - centre, fusion)
            real = slice(part.stop - part.start)
            eta[part] = (features @ weights)[real].numpy()
            if covariance is not None:
                product = (features @ aligned(covariance))[:, : len(weights)]
                variance[part] = (product * features).sum(1)[real].numpy()
        stated = stated and covariance is not None
    return eta, variance if stated else None


def scored_blocks(rows: Packed, segment: int, most: int, dtype: torch.dtype) -> Iterator[tuple[slice, Block]]:
    """Blocks (1, n, ...) of the rows of one segment, and which rows they begin with; n is a multiple of 32.

    What follows them are rows of the next segment, or zeros at the very end; labels and weights are left at 0. Products
    over such n are rounded alike wherever a row stands, as in `kernels.score_rows`, so a row's score does not depend,
    to the last bit, on the rows around it.
    """
    x, base = torch.from_numpy(rows.x), torch.from_numpy(rows.base)
    last = int(rows.starts[segment + 1])
    for begin in range(int(rows.starts[segment]), last, most):
        end = min(begin + most, last)
        taken = -(-(end - begin) // 32) * 32
        here, score = x[begin : begin + taken].to(dtype), base[begin : begin + taken].to(dtype)
        if lacking := taken - len(score):
            here, score = (
                torch.nn.functional.pad(here, (0, 0, 0, lacking)),
                torch.nn.functional.pad(score, (0, lacking)),
            )
        nothing = score.new_zeros(1, taken)
        yield slice(begin, end), Block(here.unsqueeze(0), nothing, nothing, score.unsqueeze(0))


def as_tensors(state: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state's arrays as tensors on the CPU."""
    return {name: torch.from_numpy(np.asarray(value)).to(dtype) for name, value in state.items()}


def mean_loss(likelihood: Likelihood, eta: Tensor, block: Block) -> Tensor:
    """Weighted mean loss of each task (B,); 0 for a task without rows."""
    total = block.weight.sum(1)
    loss = (likelihood.loss(eta, block.y) * block.weight).sum(1)
    return loss / torch.where(total > 0, total, torch.ones_like(total))


def prepare(tasks: Episodes, likelihood: Likelihood, of: str = "", features: int | None = None) -> Episodes:
    """The tasks, checked, rows in canonical order.

    Args:
        tasks: what to check.
        likelihood: of their labels.
        of: what they are of, for errors.
        features: columns of x; None for those of the support.
    """
    features = tasks.support.x.shape[-1] if features is None else features
    parts = []
    for name in ("support", "query"):
        packed = check(getattr(tasks, name), features=features, name=f"{name}{of}")
        likelihood.validate(packed.y)
        parts.append(canonical(packed)[0])
    return Episodes(*parts)


def centre_of(packed: Packed) -> float:
    """Weighted mean of the base score."""
    total = float(packed.weight.sum(dtype=np.float64))
    return float(packed.base.astype(np.float64) @ packed.weight) / total if total > 0 else 0.0


class Windowed(Learner, Protocol):
    """A learner that is trained on windows of tasks."""

    @property
    def support_rows(self) -> int:
        """Most support rows of a task in one step."""

    @property
    def query_rows(self) -> int:
        """Most query rows of a task in one step."""

    @property
    def loop(self) -> Loop:
        """The training loop."""


def meta_train(
    learner: Windowed,
    tasks: Episodes,
    start: Arrays,
    losses: Callable[[Parameters, Block, Block], Tensor],
    extra: Arrays,
    validation: Episodes | None,
    likelihood: Likelihood,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, Array]:
    """Train by `loop.fit` on windows of tasks; the state: what was learned, and `extra`.

    Args:
        learner: whose settings say how.
        tasks: from `prepare`.
        start: parameters to begin with.
        losses: (parameters, support block, query block) to the (B,) losses.
        extra: what the state holds besides parameters, the centre of the base score among it.
        validation: tasks whose loss ends the training early; None trains to the end.
        seed, progress: see `loop.fit`.
    """
    loop = learner.loop
    support, query = (
        Store(shuffled(part, seed), device=loop.target, dtype=loop.dtype) for part in (tasks.support, tasks.query)
    )
    rows = [min(learner.support_rows, max(1, support.longest)), min(learner.query_rows, max(1, query.longest))]
    settings = replace(learner, loop=Loop())  # type: ignore[type-var]

    def of_draw(parameters: Parameters, draw: Draw) -> Tensor:
        return losses(
            parameters,
            support.block(draw.tasks, draw.offset[:, 0], rows[0]),
            query.block(draw.tasks, draw.offset[:, 1], rows[1]),
        )

    digest = digest_of(tasks.support, tasks.query) if loop.checkpoint else ""
    fitted = fit(
        start,
        by_autograd(of_draw),
        tasks.support.keys,
        loop,
        seed=seed,
        progress=progress,
        sizes=tasks.support.sizes + tasks.query.sizes,
        validate=validation_loss(learner, extra, validation, likelihood, tasks.support.x.shape[1]),
        identity=f"{settings} {likelihood.name} {float(extra['centre'])} {digest}",
    )
    return {**fitted.parameters, **extra}


def validation_loss(
    learner: Learner, extra: Mapping[str, Any], validation: Episodes | None, likelihood: Likelihood, features: int
) -> Callable[[Arrays], float] | None:
    """Parameters to the mean loss of the validation query rows, adapted and scored as a night would.

    `features` are the columns of x in training.
    """
    if validation is None or validation.query.rows == 0:
        return None
    tasks = numbered(prepare(validation, likelihood, " of validation tasks", features))
    rows = tasks.query

    def loss(parameters: Arrays) -> float:
        state = {**parameters, **extra}
        adaptation = learner.adapt(state, tasks.support, likelihood.name)
        eta, _ = learner.predict(state, adaptation, rows, likelihood.name)
        values = likelihood.loss(torch.from_numpy(eta), torch.from_numpy(rows.y).double()).numpy()
        return float(values @ rows.weight) / max(float(rows.weight.sum()), 1e-12)

    return loss


def numbered(tasks: Episodes) -> Episodes:
    """The tasks under keys of their own: a segment has one at each cut-off, and the later ones know more labels."""
    keys = tuple((str(number),) for number in range(len(tasks.support.keys)))
    return Episodes(*(replace(part, keys=keys) for part in (tasks.support, tasks.query)))


def noise_of(learner: Learner, state: Arrays, tasks: Episodes) -> float:
    """Variance of a Gaussian label around its segment's line, 1 without query rows.

    A query row's residual r from an adapted head has the variance noise (1 + v), v being that of its score under unit
    noise: the mean of r^2 / (1 + v) does not count what the support leaves unknown as noise. Rows weigh 1 / (1 + v) in
    it, for where v is large it is the learned prior's, which training knows least well.

    Args:
        learner: whose Gaussian predictions have a variance in units of `state["noise"]`.
        state: the trained one; its noise is not read.
        tasks: prepared ones.
    """
    tasks, unit = numbered(tasks), {**state, "noise": np.array(1.0)}
    rows, total = tasks.query, float(tasks.query.weight.sum(dtype=np.float64))
    eta, variance = learner.predict(unit, learner.adapt(unit, tasks.support, "gaussian"), rows, "gaussian")
    if variance is None or not total > 0:
        return 1.0
    share = rows.weight / (1 + variance)
    return float(share @ ((rows.y - eta) ** 2 / (1 + variance))) / float(share.sum())


def padded_lengths(sizes: Array) -> Array:
    """Each size rounded up to a multiple of 8, or to one of four steps a doubling (..., 32, 40, 48, 56, 64, 80, ...).

    A segment's padded length depends on its own size alone, so its numbers do not depend on its neighbours in a block.
    """
    sizes = np.maximum(np.asarray(sizes, dtype=np.int64), 8)
    step = 1 << np.maximum(np.floor(np.log2(sizes)).astype(np.int64) - 2, 3)
    lengths: Array = -(-sizes // step) * step
    return lengths


def blocks(packed: Packed, width: int, dtype: torch.dtype, order: Array | None = None) -> Iterator[tuple[Array, Block]]:
    """Blocks of segments of about equal size, with their segment numbers; segments without rows are left out.

    Args:
        packed: checked rows.
        width: numbers a row takes in the caller's largest array, to bound memory.
        dtype: of the blocks.
        order: (N,) of `packing.canonical_order`; None where the rows stand in it.
    """
    lengths = padded_lengths(packed.sizes)
    by_length = np.lexsort((np.arange(len(lengths)), lengths))
    by_length = by_length[packed.sizes[by_length] > 0]
    sorted_lengths = lengths[by_length]
    begin = 0
    while begin < len(by_length):
        length = int(sorted_lengths[begin])
        same = int(np.searchsorted(sorted_lengths, length, side="right"))
        end = min(same, begin + max(1, BLOCK_NUMBERS // (length * max(width, 1))))
        chosen = by_length[begin:end]
        within = np.arange(length)
        real = within < packed.sizes[chosen, None]
        # the padding repeats a row of the segment, so it is finite; its weight is 0
        index = packed.starts[chosen, None] + np.where(real, within, 0)
        index = index if order is None else order[index]
        columns = (torch.from_numpy(getattr(packed, name)[index]).to(dtype) for name in Block._fields)
        block = Block(*columns)
        yield chosen, block._replace(weight=block.weight * torch.from_numpy(real))
        begin = end
