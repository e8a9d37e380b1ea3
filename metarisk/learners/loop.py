"""The one training loop: draws tasks, updates parameters, evaluates, stops early, and survives being killed.

A learner brings its starting parameters and a function from (parameters, draw) to losses and gradients; what an
episode is, the loop does not know.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array, Arrays, ModelError, Packed, Progress, SegmentKey, segment_name
from metarisk.learners import checkpoints, distributed
from metarisk.learners.optimisers import Optimiser, OptimiserName, ScheduleName, rate_at
from metarisk.learners.options import require_choice, require_range

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "float64", "mixed"]


@dataclass(frozen=True)
class Loop:
    """How long, how fast and where to train. Part of every learner's configuration."""

    steps: int = 2000
    meta_batch: int = 32
    """Tasks a step; all of them where there are fewer."""
    optimiser: OptimiserName = "adam"
    rate: float = 1e-3
    schedule: ScheduleName = "cosine"
    momentum: float = 0.9
    clip: float = 10.0
    """Longest meta-gradient, by Euclidean norm."""
    size_power: float = 0.0
    """Tasks are drawn with probability proportional to (support + query rows) to this power; 0: all alike."""
    evaluate_every: int = 100
    patience: int = 10
    """Evaluations without a better validation loss after which training stops."""
    checkpoint: str | None = None
    """File to continue from and to write; None: none."""
    checkpoint_every: int = 200
    device: DeviceName = "auto"
    precision: Precision = "float32"
    """`mixed` lets CUDA's matrix units round factors to tf32; on a CPU it is float32."""
    graph: bool = True
    """On CUDA, capture a step once as a graph and replay it; switch off for gradients that must synchronise."""

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch", "evaluate_every", "patience", "checkpoint_every", "rate", "clip"):
            require_range(name, getattr(self, name), above=0)
        require_range("momentum", self.momentum, least=0, below=1)
        require_choice("optimiser", self.optimiser, get_args(OptimiserName))
        require_choice("schedule", self.schedule, get_args(ScheduleName))
        require_choice("device", self.device, get_args(DeviceName))
        require_choice("precision", self.precision, get_args(Precision))

    @property
    def target(self) -> torch.device:
        """The device to train on: CUDA where there is one, unless the configuration says otherwise."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                "device cuda was asked for, but torch sees none",
                remedy="set device to auto or cpu, or check the driver",
            )
        cuda = self.device != "cpu" and torch.cuda.is_available()
        return torch.device("cuda", distributed.local_rank()) if cuda else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and data in training."""
        return torch.float64 if self.precision == "float64" else torch.float32


class Draw(NamedTuple):
    """What one step learns from: tasks int64 (B,), and offsets (B, 2) in [0, 1) that place each task's windows."""

    tasks: Tensor
    offset: Tensor


Parameters = Mapping[str, Tensor]
Gradient = Callable[[Parameters, Draw], tuple[Tensor, Parameters]]
"""(parameters, draw) to the (B,) losses and the gradients of their mean, by parameter name."""


def by_autograd(losses: Callable[[Parameters, Draw], Tensor]) -> Gradient:
    """The gradient function of a differentiable loss: (parameters, draw) to the (B,) losses."""

    def gradient(parameters: Parameters, draw: Draw) -> tuple[Tensor, Parameters]:
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            values = losses(leaves, draw)
            found = torch.autograd.grad(values.mean(), list(leaves.values()), allow_unused=True)
        zeros = (torch.zeros_like(leaf) for leaf in leaves.values())
        pairs = zip(leaves, found, zeros, strict=True)
        return values.detach(), {name: zero if value is None else value for name, value, zero in pairs}

    return gradient


@dataclass(frozen=True)
class Fitted:
    """Trained parameters, and how training went."""

    parameters: Arrays
    """Of the best evaluation, or of the last step where nothing was evaluated."""
    steps: int
    loss: float
    """Mean training loss over the last steps."""
    validation: float | None
    """The best validation loss."""


def fit(
    start: Arrays,
    gradient: Gradient,
    keys: Sequence[SegmentKey],
    loop: Loop,
    *,
    seed: int,
    progress: Progress,
    sizes: Array | None = None,
    validate: Callable[[Arrays], float] | None = None,
    identity: str = "",
) -> Fitted:
    """Train from `start` and return the best parameters.

    Everything random in step t is drawn from (seed, t) alone, so a run that continues from a checkpoint gives the bits
    of a run that was never interrupted (same hardware, CPU).

    Args:
        start: named arrays to begin with.
        gradient: losses and gradients of a draw; see `Gradient` and `by_autograd`.
        keys: segment of each task, for errors.
        loop: configuration.
        seed: of the draws.
        progress: called with the step, all steps, and a note of loss, rate and time left.
        sizes: rows of each task (T,), for `Loop.size_power`.
        validate: parameters to validation loss; None trains all steps.
        identity: what else the result depends on (configuration, data); a checkpoint of another identity is refused.

    Raises:
        ModelError: no task; a loss, gradient or validation loss that is not finite (names step and task); an
            unusable checkpoint.
    """
    if not keys:
        raise ModelError("there is no task to train on", remedy="widen the training period or lower min_support_rows")
    device = loop.target
    distributed.join(device)
    processes = distributed.world()[1]
    if min(loop.meta_batch, len(keys)) < processes:
        raise ModelError(
            f"a meta-batch of {min(loop.meta_batch, len(keys))} tasks cannot be shared by {processes} processes",
            remedy="start fewer processes, or raise meta_batch or the number of tasks",
        )
    run = _Run(start, loop, device)
    chances = None if sizes is None or loop.size_power == 0 else (np.asarray(sizes) + 1.0) ** loop.size_power
    file = None if loop.checkpoint is None else Path(loop.checkpoint)
    digest = _identity(start, loop, seed, identity)
    if file is not None:
        run.resume(file, digest)
    step_once = _captured(run, gradient, loop) if device.type == "cuda" and loop.graph else _eager(run, gradient, loop)
    began, first = time.monotonic(), run.step
    with _matmul_precision(loop, device):
        while run.step < loop.steps and run.stale < loop.patience:
            draw = _draw(len(keys), loop, seed, run.step, chances, device)
            run.optimiser.prepare(run.step, rate_at(loop.schedule, loop.rate, run.step, loop.steps))
            losses = step_once(draw)
            run.step += 1
            due = run.step % loop.evaluate_every == 0 or run.step == loop.steps
            saves = file is not None and (due or run.step % loop.checkpoint_every == 0)
            if device.type == "cpu":
                run.watch(losses, draw, keys)
            elif due or saves:
                run.raise_trouble(keys)
                run.watch(losses, draw, keys)
            if due:
                if validate is not None:
                    run.judge(distributed.agree(validate(run.arrays(run.optimiser.parameters)), device))
                speed = (run.step - first) / max(time.monotonic() - began, 1e-9)
                left = (loop.steps - run.step) / speed
                best = "" if validate is None else f", validation {run.validation:.5f}, best {run.best:.5f}"
                progress(run.step, loop.steps, f"loss {run.loss:.5f}{best}, {speed:.0f} steps/s, {left:.0f} s left")
            if saves and file is not None and distributed.world()[0] == 0:
                run.save(file, digest)
    chosen = run.chosen if validate is not None else run.optimiser.parameters
    return Fitted(run.arrays(chosen), run.step, run.loss, None if validate is None else run.best)


class _Run:
    """All that changes while training, and how it is written down."""

    def __init__(self, start: Arrays, loop: Loop, device: torch.device) -> None:
        self.shapes = {name: value.shape for name, value in start.items()}
        flat = np.concatenate([np.asarray(value, dtype=np.float64).ravel() for value in start.values()])
        parameters = torch.from_numpy(flat).to(device=device, dtype=loop.dtype)
        self.optimiser = Optimiser(loop.optimiser, parameters, momentum=loop.momentum, clip=loop.clip)
        self.views = self._views(parameters)
        self.gradient = torch.zeros_like(parameters)
        self.chosen = parameters.clone()
        # On a GPU, whose losses are read at evaluations alone: steps done, then step and task of the first bad loss.
        self.trouble = torch.tensor([0, -1, -1], device=device)
        self.step, self.stale = 0, 0
        self.loss, self.validation, self.best = np.nan, np.nan, np.inf

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = torch.split(flat, sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def arrays(self, flat: Tensor) -> dict[str, Array]:
        return {name: view.cpu().numpy().copy() for name, view in self._views(flat).items()}

    def watch(self, losses: Tensor, draw: Draw, keys: Sequence[SegmentKey]) -> None:
        """Note the loss; stop on one that is not finite, or on parameters that are not."""
        values = losses.double().cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            task = int(draw.tasks[int(wrong[0])])
            raise _diverged(self.step, f"loss {values[wrong[0]]} of task {segment_name(keys[task])}")
        if not bool(torch.isfinite(self.optimiser.parameters).all()):
            worst = int(draw.tasks[int(values.argmax())])
            raise _diverged(
                self.step,
                f"parameters are not finite; the largest loss, {values.max()}, is of task {segment_name(keys[worst])}",
            )
        mean = float(values.mean())
        self.loss = mean if np.isnan(self.loss) else 0.95 * self.loss + 0.05 * mean

    def note_trouble(self, losses: Tensor, tasks: Tensor) -> None:
        """Remember, on the device and without waiting for it, the first step and task whose loss is not finite."""
        bad = ~torch.isfinite(losses)
        done = self.trouble[:1] + 1
        first = torch.cat([done, done, tasks[bad.long().argmax()].unsqueeze(0)])
        still = torch.cat([done, self.trouble[1:]])
        self.trouble.copy_(torch.where(bad.any() & (self.trouble[1] < 0), first, still))

    def raise_trouble(self, keys: Sequence[SegmentKey]) -> None:
        """Stop on what `note_trouble` saw."""
        _, step, task = self.trouble.tolist()
        if step >= 0:
            raise _diverged(step, f"the loss of task {segment_name(keys[task])} is not finite")

    def judge(self, validation: float) -> None:
        """Keep the parameters if they are the best so far; stop on a loss that is not finite."""
        if not np.isfinite(validation):
            raise _diverged(self.step, f"the validation loss is {validation}")
        self.validation = validation
        if validation < self.best:
            self.best, self.stale = validation, 0
            self.chosen.copy_(self.optimiser.parameters)
        else:
            self.stale += 1

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {**self.optimiser.state, "chosen": self.chosen}

    @property
    def _numbers(self) -> list[float]:
        return [self.step, self.stale, self.loss, self.validation, self.best]

    def _count_from(self, numbers: list[float]) -> None:
        step, stale, self.loss, self.validation, self.best = numbers
        self.step, self.stale = int(step), int(stale)
        self.trouble.copy_(torch.tensor([self.step, -1, -1]))

    def save(self, file: Path, identity: str) -> None:
        """Write all that `resume` needs."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}
        checkpoints.write(file, identity, {**arrays, "numbers": np.array(self._numbers)})

    def resume(self, file: Path, identity: str) -> None:
        """Continue where there is a checkpoint, every process from that of process 0."""
        refused: ModelError | None = None
        if distributed.world()[0] == 0 and file.exists():
            try:
                contents = checkpoints.read(file, identity)
                for name, tensor in self._tensors.items():
                    tensor.copy_(torch.from_numpy(contents[name]))
                self._count_from(contents["numbers"].tolist())
            except ModelError as error:
                refused = error
        device = self.trouble.device
        if distributed.agree(float(refused is not None), device):
            raise refused or ModelError("process 0 refused its checkpoint", remedy="see the error of process 0")
        numbers = torch.tensor(self._numbers, dtype=torch.float64, device=device)
        distributed.share([*self._tensors.values(), numbers])
        self._count_from(numbers.tolist())


def _diverged(step: int, how: str) -> ModelError:
    return ModelError(
        f"training diverged in step {step}: {how}",
        remedy="lower the outer rate, the inner rate or the number of inner steps, or look at the rows",
    )


def _identity(start: Arrays, loop: Loop, seed: int, identity: str) -> str:
    digest = hashlib.sha256(repr((replace(loop, checkpoint=None), seed, identity, list(start))).encode())
    for value in start.values():
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def digest_of(*packed: Packed) -> str:
    """SHA-256 of packed rows, for the `identity` of a checkpoint."""
    digest = hashlib.sha256()
    for rows in packed:
        digest.update(repr(rows.keys).encode())
        for values in (rows.starts, rows.x, rows.y, rows.weight, rows.base):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _draw(tasks: int, loop: Loop, seed: int, step: int, chances: Array | None, device: torch.device) -> Draw:
    """Different tasks where there are enough, by chance of `chances`; the same for the same (seed, step)."""
    rng = np.random.default_rng([seed, step])
    batch = min(loop.meta_batch, tasks)
    if chances is None:
        chosen = rng.choice(tasks, batch, replace=False)
    else:
        # the keys of Efraimidis and Spirakis (2006): a weighted sample without replacement
        chosen = np.argpartition(rng.exponential(size=tasks) / chances, batch - 1)[:batch]
    offset = torch.from_numpy(rng.random((batch, 2))).to(loop.dtype)
    return Draw(torch.from_numpy(chosen.astype(np.int64)).to(device), offset.to(device))


def _eager(run: _Run, gradient: Gradient, loop: Loop) -> Callable[[Draw], Tensor]:
    @torch.no_grad()
    def step(draw: Draw) -> Tensor:
        share = Draw(distributed.mine(draw.tasks), distributed.mine(draw.offset))
        losses, gradients = gradient(run.views, share)
        torch.cat([gradients[name].reshape(-1) for name in run.views], out=run.gradient)
        mean, everything = distributed.combine(run.gradient, losses, len(draw.tasks))
        run.optimiser.update(mean)
        if everything.device.type != "cpu":
            run.note_trouble(everything, draw.tasks)
        return everything

    return step


def _captured(run: _Run, gradient: Gradient, loop: Loop) -> Callable[[Draw], Tensor]:
    """One step as a CUDA graph: launched once instead of a few hundred kernels, fed by copying the draw into place."""
    eager = _eager(run, gradient, loop)
    if distributed.world()[1] > 1:
        return eager
    graph: torch.cuda.CUDAGraph | None = None
    feed: Draw | None = None
    losses: Tensor | None = None

    def capture(draw: Draw) -> None:
        nonlocal graph, feed, losses
        feed = Draw(draw.tasks.clone(), draw.offset.clone())
        before = {name: tensor.clone() for name, tensor in run.optimiser.state.items()}
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager(feed)
        torch.cuda.current_stream().wait_stream(side)
        for name, tensor in run.optimiser.state.items():
            tensor.copy_(before[name])
        run.trouble.copy_(torch.tensor([run.step, -1, -1]))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = eager(feed)

    def step(draw: Draw) -> Tensor:
        if graph is None:
            capture(draw)
        assert graph is not None and feed is not None and losses is not None  # noqa: S101
        feed.tasks.copy_(draw.tasks)
        feed.offset.copy_(draw.offset)
        graph.replay()
        return losses

    return step


@contextmanager
def _matmul_precision(loop: Loop, device: torch.device) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if loop.precision == "mixed" and device.type == "cuda" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
