"""What an unrolled inner loop works in: buffers of every step, and products of matrices as they are laid there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from metarisk.domain import ModelError
from metarisk.learners.kernels.adapting import ACTIVATIONS
from metarisk.learners.kernels.plan import Plan
from metarisk.learners.likelihoods import Likelihood
from metarisk.learners.memory import free_memory


class Rows(NamedTuple):
    """Inputs of a layer (B, rows, in + 1), and the same turned; views are made once, each costs as much as a sum."""

    rows: Tensor
    turned: Tensor


def rows_of(inputs: Tensor) -> Rows:
    """Inputs with their turned view."""
    return Rows(inputs, inputs.mT)


class _Step:
    """Buffers of one inner step, lists by layer.

    Inputs h of a layer stand above their R-images, and R-images of its deltas above the deltas, so that the weight part
    of a Hessian-vector product, h' Rd + Rh' d, is one product over 2n rows. Deltas are kept as the products over rows
    take them (see `Workspace`), and upright, (B, n, out).
    """

    def __init__(self, n: int, inputs: Sequence[int], outputs: Sequence[int], empty: Callable[..., Tensor]) -> None:
        layers = range(len(outputs))
        both = [empty(0 if i == 0 else 2 * n, inputs[i] + 1) for i in layers]
        for buffer in both[1:]:
            buffer[:, :n, -1] = 1.0
        self.both = [rows_of(buffer) for buffer in both]
        self.inputs = [rows_of(buffer[:, :n]) for buffer in both]
        self.hidden = [buffer[:, :n, :-1] for buffer in both]
        self.images = [rows_of(buffer[:, n:]) for buffer in both]
        self.hidden_images = [buffer[:, n:, :-1] for buffer in both]
        self.slopes = [empty(n, width) for width in outputs[:-1]]
        deltas = [empty(2 * n, width) for width in outputs]
        self.upright = [buffer[:, n:] for buffer in deltas]
        self.upright_images = [buffer[:, :n] for buffer in deltas]
        self.top, self.top_image = squeezed(self.upright[-1]), squeezed(self.upright_images[-1])
        if outputs[-1] == 1:
            deltas[-1] = deltas[-1].mT
        self.deltas_both = deltas
        self.deltas, self.delta_images = list(self.upright), list(self.upright_images)
        if outputs[-1] == 1:
            self.deltas[-1], self.delta_images[-1] = self.deltas[-1].mT, self.delta_images[-1].mT
        self.gradients: list[Tensor] = []
        self.eta = self.scores = self.curvature = empty(0)
        self.weights, self.below = [empty(0)] * len(outputs), [empty(0)] * len(outputs)

    def place(self, weights: Sequence[Tensor], single: bool) -> None:
        """Set the weights before the step; a head of a single output lies on its side, (B, 1, in + 1)."""
        self.weights = list(weights)
        self.below = [weight[:, :-1].mT for weight in weights]
        if single:
            self.below[-1] = weights[-1][..., :-1]


class Workspace:
    """Buffers for meta-batches of one shape.

    A head of a single output lies on its side, weights (B, 1, in + 1) and scores (B, 1, rows): products of that shape
    are several times as fast as those of columns.

    Args:
        tasks: B.
        rows: support and query rows a task, n and q.
        widths: inputs (without the ones), hidden widths, outputs.
        plan: the inner loop.
        likelihood: of the labels.
        device, dtype: of everything.

    Raises:
        ModelError: the buffers of all inner steps do not fit into free memory.
    """

    def __init__(
        self,
        tasks: int,
        rows: tuple[int, int],
        widths: Sequence[int],
        plan: Plan,
        likelihood: Likelihood,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.tasks, (self.n, self.q), self.widths = tasks, rows, tuple(widths)
        self.plan, self.likelihood, self.activation = plan, likelihood, ACTIVATIONS[plan.activation]
        self.device, self.dtype, self.layers = device, dtype, len(widths) - 1
        self.gram = self.n < widths[0] and self.layers > 1 and not plan.adjoint and plan.rates != "matrix"
        self._require_memory()
        n, q, last = self.n, self.q, self.layers - 1
        inputs, outputs, layers = self.widths[:-1], self.widths[1:], range(self.layers)
        self.single = outputs[last] == 1

        def empty(*shape: int) -> Tensor:
            return torch.zeros(tasks, *shape, device=device, dtype=dtype)

        def matrices() -> list[Tensor]:
            shapes = [(0,) if self.gram and i == 0 else (inputs[i] + 1, outputs[i]) for i in layers]
            return [empty(*(shape[::-1] if self.single and i == last else shape)) for i, shape in enumerate(shapes)]

        self.steps = [_Step(n, inputs, outputs, empty) for _ in range(plan.steps + 1)]
        for step in self.steps[1:]:
            step.place(matrices(), self.single)
        if plan.keeps_gradients:
            for step in self.steps[:-1]:
                step.gradients = matrices()
        self.adjoint, self.scaled = matrices(), matrices() if plan.keeps_gradients else []
        self.z, self.back = [empty(n, width) for width in outputs], [empty(n, width) for width in inputs]
        self.adjoint_below = [self._below(i, matrix) for i, matrix in enumerate(self.adjoint)]
        self.eta = squeezed(self.z[last])
        self.z[last] = self._laid(last, self.z[last])
        etas = torch.zeros(plan.steps, tasks, n, outputs[last], device=device, dtype=dtype)
        self.etas = squeezed(etas)
        for number, step in enumerate(self.steps[:-1]):
            step.eta, step.scores = self.etas[number], self._laid(last, etas[number])
        hidden_q = [empty(0 if i == 0 else q, inputs[i] + 1) for i in layers]
        for buffer in hidden_q[1:]:
            buffer[..., -1] = 1.0
        self.hidden_q = [rows_of(buffer) for buffer in hidden_q]
        self.inner_q = [buffer[..., :-1] for buffer in hidden_q]
        self.z_q, self.back_q = [empty(q, width) for width in outputs], [empty(q, width) for width in inputs]
        self.eta_q = squeezed(self.z_q[last])
        self.top_q, self.z_q[last] = self.z_q[last], self._laid(last, self.z_q[last])
        if self.gram:
            first = outputs[0]
            self.inner, self.cross = empty(n, n), empty(q, n)
            self.z_start, self.z_start_q = empty(n, first), empty(q, first)
            self.shift = [empty(n, first) for _ in range(plan.steps + 1)]
            self.speed = [empty(n, first) for _ in range(plan.steps if plan.momentum else 0)]
            self.direction_z = empty(n, first)
            self.adjoint_z, self.rows_z, self.rows_z_q = empty(n, first), empty(n, first), empty(q, first)

    def _on_side(self, i: int) -> bool:
        """Whether matrices of layer i are kept as (1, in + 1)."""
        return self.single and i == self.layers - 1

    def _laid(self, i: int, matrix: Tensor) -> Tensor:
        """A matrix (in + 1, out) of layer i as it is kept here, or back; a number as it is."""
        return matrix.mT if matrix.dim() and self._on_side(i) else matrix

    def _below(self, i: int, matrix: Tensor) -> Tensor:
        """(..., out, in): a matrix as kept here, transposed and without its bias."""
        return matrix[..., :-1] if self._on_side(i) else matrix[..., :-1, :].mT

    def _apply(
        self, i: int, inputs: Rows, weight: Tensor, out: Tensor, base: Tensor | None = None, *, beta: float = 1.0
    ) -> None:
        """out = beta base + inputs times weight, laid as layer i is."""
        left, right = (weight, inputs.turned) if self._on_side(i) else (inputs.rows, weight)
        if base is None:
            torch.bmm(left, right, out=out)
        else:
            torch.baddbmm(base, left, right, beta=beta, out=out)

    def _gather(
        self, i: int, base: Tensor, inputs: Rows, delta: Tensor, out: Tensor, *, beta: float = 1.0, alpha: float = 1.0
    ) -> None:
        """out = beta base + alpha inputs^T @ delta, laid as layer i is."""
        left, right = (delta, inputs.rows) if self._on_side(i) else (inputs.turned, delta)
        torch.baddbmm(base, left, right, beta=beta, alpha=alpha, out=out)

    def _spread(
        self, i: int, delta: Tensor, below: Tensor, out: Tensor, *, beta: float = 0.0, alpha: float = 1.0
    ) -> Tensor:
        """out = beta out + alpha delta @ below: delta upright, below as `_below` gives it; beta is 0 or 1."""
        if not self._on_side(i):
            return torch.baddbmm(out, delta, below, beta=beta, alpha=alpha, out=out)
        return out.addcmul_(delta, below, value=alpha) if beta else torch.mul(delta, below, out=out)

    def _require_memory(self) -> None:
        """Refuse a workspace that does not fit, before the machine starts to swap or kills the process."""
        inputs, outputs = sum(self.widths[:-1]), sum(self.widths[1:])
        matrices = sum((a + 1) * b for a, b in pairwise(self.widths))
        copies = 2 if self.plan.keeps_gradients else 1
        step = self.tasks * (self.n * (2 * inputs + 4 * outputs) + copies * matrices)
        fixed = self.tasks * (2 * matrices + (self.n + self.q) * 3 * (inputs + outputs))
        size = torch.empty(0, dtype=self.dtype).element_size()
        free = free_memory(self.device)
        if free is not None and (fixed + self.plan.steps * step) * size > free:
            fit = max(int(free / size - fixed) // step, 0)
            raise ModelError(
                f"{self.plan.steps} inner steps of {self.tasks} tasks x {self.n} support rows need "
                f"{(fixed + self.plan.steps * step) * size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
                remedy=f"use at most {fit} inner steps, fewer tasks a meta-batch, or fewer rows",
            )


def squeezed(z: Tensor) -> Tensor:
    """Outputs (B, n, o) in the likelihood's shape: without the last dimension where it is one."""
    return z.squeeze(-1) if z.shape[-1] == 1 else z
