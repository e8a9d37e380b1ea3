"""Adapting ragged segments on the CPU: loops over segments in preallocated buffers, without padding.

A network is a list of matrices (in + 1, out) whose last row is the bias. Scoring lives in `kernels_scoring`; the
batched inner loop of meta-training, with its reverse, in `kernels_unroll`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array, Packed
from metarisk.learners.likelihoods import Likelihood

ActivationName = Literal["relu", "tanh"]

CHUNK_ROWS = 4096
"""Rows adapted together, to spread the cost of elementwise calls; best of 256 to 4096, 8 MB of buffers."""


class Activation(NamedTuple):
    """An elementwise nonlinearity h = phi(z); what is written to may be what is read.

    Attributes:
        apply: (z, out) writes phi(z), and may write to z.
        slope: (h, out) writes phi'(z), from h.
        pull: (u, h, out) writes u phi'(z), from h.
        bend: (image, h, delta, room, out) adds image delta phi''/phi'(z) to out, from h, and may write to room; None
            where phi'' vanishes almost everywhere.
        smooth: phi as autograd knows it.
    """

    apply: Callable[[Tensor, Tensor], object]
    slope: Callable[[Tensor, Tensor], object]
    pull: Callable[[Tensor, Tensor, Tensor], object]
    bend: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], object] | None
    smooth: Callable[[Tensor], Tensor]


_threshold_backward = torch.ops.aten.threshold_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
# numbers as tensors: a Python number is made into one in every call, which costs more than a small sum
_ONE, _MINUS_ONE, _TWO = torch.tensor(1.0), torch.tensor(-1.0), torch.tensor(2.0)


def _tanh(z: Tensor, out: Tensor) -> None:
    """2 sigmoid(2z) - 1, to rounding of 1; on a CPU 3 to 8 times as fast as torch.tanh."""
    if z.is_cuda:
        torch.tanh(z, out=out)
    else:
        torch.sigmoid(torch.mul(z, _TWO, out=z), out=z)
        torch.add(_MINUS_ONE, z, alpha=2.0, out=out)


def _tanh_slope(h: Tensor, out: Tensor) -> None:
    """1 - h h, on a CPU in one pass."""
    if h.is_cuda:
        torch.sub(_ONE, torch.mul(h, h, out=out), out=out)
    else:
        torch.addcmul(_ONE, h, h, value=-1.0, out=out)


def _tanh_bend(image: Tensor, h: Tensor, delta: Tensor, room: Tensor, out: Tensor) -> None:
    out.addcmul_(torch.mul(image, h, out=room), delta, value=-2.0)


ACTIVATIONS: dict[ActivationName, Activation] = {
    "relu": Activation(
        lambda z, out: torch.clamp_min(z, 0.0, out=out),
        lambda h, out: torch.sign(h, out=out),
        lambda u, h, out: _threshold_backward(u, h, 0.0, grad_input=out),
        None,
        torch.relu,
    ),
    "tanh": Activation(
        _tanh,
        _tanh_slope,
        lambda u, h, out: _tanh_backward(u, h, grad_input=out),
        _tanh_bend,
        torch.tanh,
    ),
}


def adapt_segments(
    weights: Sequence[Tensor],
    rates: Sequence[Sequence[float | Tensor]],
    rows: Packed,
    order: Array,
    likelihood: Likelihood,
    *,
    activation: ActivationName = "relu",
    frozen: int = 0,
    prior_rows: float = 0.0,
    momentum: float = 0.0,
    safeguard: bool = False,
) -> list[Tensor]:
    """Gradient steps of every segment on its own rows, from the same start.

    The loss of a segment is the weighted mean over its rows. Segments are taken in the order of their size; small ones
    move their first layer through the Gram matrix of their inputs, as in `kernels_unroll`.

    Args:
        weights: L matrices (in + 1, out), the start.
        rates: inner rates [step][live layer], each a number or a matrix of one rate a parameter.
        rows: support of S segments in float of any width; a segment without rows keeps the start.
        order: (N,) the order in which rows are read, from inside segments (see `packing.canonical_order`).
        likelihood: of the labels.
        activation: between layers.
        frozen: layers at the bottom that are not adapted (ANIL: all but the head).
        prior_rows: pseudo-rows in the denominator of the mean.
        momentum: of the steps, see `kernels_unroll.Plan`.
        safeguard: a segment whose own loss ends above where it began keeps the start; one forward more. One whose loss
            or weights end not finite keeps it anyway.

    Returns:
        The adapted layers, L - frozen tensors (S, in + 1, out).
    """
    live = [weight.expand(len(rows.keys), -1, -1).clone() for weight in weights[frozen:]]
    queue = np.argsort(rows.sizes, kind="stable")
    queue = queue[rows.sizes[queue] > 0]
    buffers = _Buffers(weights, max(CHUNK_ROWS, int(rows.sizes.max(initial=0))))

    def chunk_of(segments: Array) -> _Chunk:
        return _Chunk(segments, rows, order, weights, live, likelihood, activation, frozen, prior_rows, buffers)

    with torch.no_grad():
        for segments in _chunks(queue, rows.sizes):
            chunk_of(segments).run(rates, momentum, safeguard)
        for segments in _chunks(queue[_grown(live, weights[frozen:])[queue]], rows.sizes):
            chunk_of(segments).drop_diverged()
    return live


def _grown(live: Sequence[Tensor], start: Sequence[Tensor]) -> Array:
    """(S,) whether a layer of a segment has more than twice the norm of the start: none has diverged without."""
    norms = [torch.linalg.vector_norm(layer, dim=(1, 2)) for layer in live]
    over = [~(norm <= 2 * torch.linalg.vector_norm(begin)) for norm, begin in zip(norms, start, strict=True)]
    return torch.stack(over).any(0).numpy()


def _chunks(order: Array, sizes: Array) -> Iterator[Array]:
    """Segments of about `CHUNK_ROWS` rows together, in the order given."""
    total, begin = 0, 0
    for position, size in enumerate(sizes[order]):
        if total and total + size > CHUNK_ROWS:
            yield order[begin:position]
            total, begin = 0, position
        total += int(size)
    if begin < len(order):
        yield order[begin:]


def _padded(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """(rows, width), each row at the start of a cache line; a single column without gaps."""
    return torch.zeros(rows, -(-width // 16) * 16 if width > 1 else 1, dtype=dtype)[:, :width]


class _Buffers:
    """Room for the longest chunk; inputs and hidden layers carry a last column of ones."""

    def __init__(self, weights: Sequence[Tensor], capacity: int) -> None:
        dtype = weights[0].dtype
        self.inputs = [_padded(capacity, len(weight), dtype) for weight in weights]
        self.deltas = [_padded(capacity, weight.shape[1], dtype) for weight in weights]
        for buffer in self.inputs:
            buffer[:, -1] = 1.0
        self.z_start = _padded(capacity, weights[0].shape[1], dtype)
        self.shift = _padded(capacity, weights[0].shape[1], dtype)


class _Chunk:
    """Some segments end to end: elementwise work is done on all rows at once, products segment by segment."""

    def __init__(
        self,
        segments: Array,
        rows: Packed,
        order: Array,
        weights: Sequence[Tensor],
        live: Sequence[Tensor],
        likelihood: Likelihood,
        activation: ActivationName,
        frozen: int,
        prior_rows: float,
        buffers: _Buffers,
    ) -> None:
        self.likelihood, self.activation, self.frozen = likelihood, ACTIVATIONS[activation], frozen
        sizes = rows.sizes[segments]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        self.total = int(bounds[-1])
        self.layers = len(weights)
        spans = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        dtype = weights[0].dtype
        source = np.concatenate([order[rows.starts[s] : rows.starts[s + 1]] for s in segments])

        def gather(values: Array) -> Tensor:
            return torch.from_numpy(values[source]).to(dtype)

        self.inputs = [buffer[: self.total] for buffer in buffers.inputs]
        self.deltas = [buffer[: self.total] for buffer in buffers.deltas]
        self.inputs[0][:, :-1] = torch.from_numpy(rows.x[source])
        self.y, self.base = gather(rows.y), gather(rows.base)
        weight = gather(rows.weight)
        totals = torch.stack([weight[span].sum() for span in spans])
        totals = torch.where(totals > 0, totals + prior_rows, torch.ones_like(totals))
        self.share = (weight / totals.repeat_interleave(torch.from_numpy(sizes))).unsqueeze(1)

        self.gram = frozen == 0 and self.layers > 1 and int(sizes.max()) < 2 * len(weights[0])
        for layer in range(frozen):
            self._forward_shared(layer, weights[layer])
        # Views are made once a chunk: making them costs about as much as a small product.
        self.h = [[h[span] for span in spans] for h in self.inputs]
        self.z = [[self._out(layer)[span] for span in spans] for layer in range(self.layers)]
        self.d = [[d[span] for span in spans] for d in self.deltas]
        self.turned = [[] if layer < frozen else [h.mT for h in hs] for layer, hs in enumerate(self.h)]
        self.w = [[weight[int(s)] for s in segments] for weight in live]
        self.below = [[weight[:-1].mT for weight in weights] for weights in self.w]
        self.spans = spans
        self.start = weights[frozen:]
        if self.gram:
            self.z_start, self.shift = buffers.z_start[: self.total], buffers.shift[: self.total]
            torch.mm(self.inputs[0], weights[0], out=self.z_start)
            self.shift.zero_()
            self.moves = [
                (self.z_start[span], h @ turned, self.shift[span])
                for span, h, turned in zip(spans, self.h[0], self.turned[0], strict=True)
            ]

    def _out(self, layer: int) -> Tensor:
        """Where a layer's result goes: the next layer's inputs without their ones, or the deltas at the top."""
        return self.inputs[layer + 1][:, :-1] if layer + 1 < self.layers else self.deltas[layer]

    def _forward_shared(self, layer: int, weight: Tensor) -> None:
        z = torch.mm(self.inputs[layer], weight, out=self._out(layer))
        self.activation.apply(z, z)

    def run(self, rates: Sequence[Sequence[float | Tensor]], momentum: float, safeguard: bool) -> None:
        gram = self.gram and all(isinstance(row[0], float) for row in rates)
        speeds: list[list[Tensor]] = []
        if momentum:
            speeds = [[torch.zeros_like(weight) for weight in weights] for weights in self.w]
            speed = torch.zeros_like(self.deltas[0])
        began: list[Tensor] = []
        for row in rates:
            self._forward(gram)
            if safeguard and not began:
                began = self._losses()
            self._backward()
            for layer in range(self.frozen, self.layers):
                rate = row[layer - self.frozen]
                if layer == 0 and gram:
                    change = speed.mul_(momentum).add_(self.deltas[0]) if momentum else self.deltas[0]
                    self.shift.add_(change, alpha=float(rate))
                elif momentum:
                    self._roll(layer, rate, speeds[layer - self.frozen], momentum)
                else:
                    self._move(layer, rate)
        if gram:
            for weight, h, (_, _, shift) in zip(self.w[0], self.turned[0], self.moves, strict=True):
                weight.addmm_(h, shift, alpha=-1.0)
        if began:
            self._forward(gram)
            for number, (before, after) in enumerate(zip(began, self._losses(), strict=True)):
                if not after <= before:
                    self._put_back(number)

    def drop_diverged(self) -> None:
        """Put back segments that would not score: their loss, or the product of their layers' norms, is not finite."""
        self._forward(False)
        for number, loss in enumerate(self._losses()):
            squares = torch.stack([weights[number].square().sum() for weights in self.w])
            if not torch.isfinite(loss + squares.prod()):
                self._put_back(number)

    def _put_back(self, number: int) -> None:
        for weights, start in zip(self.w, self.start, strict=True):
            weights[number].copy_(start)

    def _losses(self) -> list[Tensor]:
        """Of each segment, from the scores of the last forward."""
        eta = self.deltas[-1].clone()
        eta[:, 0] += self.base
        losses = self.likelihood.loss(eta.squeeze(-1) if eta.shape[1] == 1 else eta, self.y) * self.share[:, 0]
        return [losses[span].sum() for span in self.spans]

    def _forward(self, gram: bool) -> None:
        for layer in range(self.frozen, self.layers):
            if layer == 0 and gram:
                for z, (start, inner, shift) in zip(self.z[0], self.moves, strict=True):
                    torch.addmm(start, inner, shift, alpha=-1.0, out=z)
            else:
                for h, weight, z in zip(self.h[layer], self.w[layer - self.frozen], self.z[layer], strict=True):
                    torch.mm(h, weight, out=z)
            if layer + 1 < self.layers:
                self.activation.apply(self._out(layer), self._out(layer))

    def _backward(self) -> None:
        top = self.deltas[-1]
        top[:, 0].add_(self.base)
        single = top.shape[1] == 1
        gradient = self.likelihood.gradient(top[:, 0] if single else top, self.y)
        torch.mul(gradient.view(self.total, -1), self.share, out=top)
        for layer in range(self.layers - 1, self.frozen, -1):
            product = torch.mul if self.deltas[layer].shape[1] == 1 else torch.mm
            for d, weight, below in zip(self.d[layer], self.below[layer - self.frozen], self.d[layer - 1], strict=True):
                product(d, weight, out=below)
            below = self.deltas[layer - 1]
            self.activation.pull(below, self.inputs[layer][:, :-1], below)

    def _move(self, layer: int, rate: float | Tensor) -> None:
        for h, d, weight in zip(self.turned[layer], self.d[layer], self.w[layer - self.frozen], strict=True):
            if isinstance(rate, float):
                weight.addmm_(h, d, alpha=-rate)
            else:
                weight.addcmul_(h @ d, rate, value=-1.0)

    def _roll(self, layer: int, rate: float | Tensor, speeds: list[Tensor], momentum: float) -> None:
        rows = zip(self.turned[layer], self.d[layer], self.w[layer - self.frozen], speeds, strict=True)
        for h, d, weight, speed in rows:
            weight.sub_(speed.mul_(momentum).addmm_(h, d) * rate)
