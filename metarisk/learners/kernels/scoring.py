"""Scoring the rows of ragged segments on the CPU, each with its own network, in blocks and without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array, Packed
from metarisk.learners.kernels.adapting import ACTIVATIONS, ActivationName

BLOCK_ROWS = 2048
"""Rows scored together."""


class Layer(NamedTuple):
    """Bias (out,) and matrix (in, out) of one layer; at the top of a network of one output a vector (in,)."""

    bias: Tensor
    matrix: Tensor


Network = Sequence[Layer]


def networks(layers: Sequence[Tensor]) -> list[Network]:
    """M networks, as views that are made together.

    Args:
        layers: L tensors (M, in + 1, out), or (in + 1, out) where all networks share a layer.
    """
    count = max((len(layer) for layer in layers if layer.dim() == 3), default=1)
    parts = []
    for number, layer in enumerate(layers):
        matrices = layer[..., :-1, 0] if number + 1 == len(layers) and layer.shape[-1] == 1 else layer[..., :-1, :]
        if layer.dim() == 3:
            parts.append([Layer(*pair) for pair in zip(layer[:, -1].unbind(), matrices.unbind(), strict=True)])
        else:
            parts.append([Layer(layer[-1], matrices)] * count)
    return list(zip(*parts, strict=True))


def score_rows(
    networks: Sequence[Network],
    models: Array,
    rows: Packed,
    *,
    extra: Callable[[Array], Array] | None = None,
    activation: ActivationName = "relu",
) -> tuple[Array, bool]:
    """Outputs of each row's network, the base score added to the first: (N, outputs) in the dtype of the weights.

    Products are taken over a multiple of 16 rows, which MKL rounds alike wherever a row stands: a row's score does not
    depend, to the last bit, on the rows around it.

    Args:
        networks: from `networks`, all of one shape.
        models: (S,) which of them scores each segment.
        rows: what to score; `rows.base` is added.
        extra: base scores of a block (n,) to one more input column, in place of adding them.
        activation: between layers.

    Returns:
        The scores, and whether inputs and scores are finite, as their sums tell.
    """
    apply = ACTIVATIONS[activation].apply
    first = networks[0]
    dtype, outputs = first[0].bias.dtype, len(first[-1].bias)
    # Rounding up to 16 rows may write a little past a segment; the next one, or the cut at the end, mends that.
    out = torch.zeros(rows.rows + 16, outputs, dtype=dtype)
    flat = out[:, 0]
    room = [torch.empty(BLOCK_ROWS, len(layer.bias), dtype=dtype) for layer in first[:-1]]
    rooms: dict[int, list[Tensor]] = {}
    copied = torch.zeros(BLOCK_ROWS, len(first[0].matrix), dtype=dtype)
    x = torch.from_numpy(rows.x)
    direct = extra is None and x.dtype == dtype
    total = torch.zeros((), dtype=dtype)
    starts = rows.starts.tolist()
    with torch.no_grad():
        for segment in np.flatnonzero(rows.sizes).tolist():
            *below, (bias, weight) = networks[models[segment]]
            begin, end = starts[segment], starts[segment + 1]
            for a in range(begin, end, BLOCK_ROWS):
                b = min(a + BLOCK_ROWS, end)
                taken = (b - a + 15) // 16 * 16
                if direct and a + taken <= rows.rows:
                    h = x[a : a + taken]
                else:
                    copied[: b - a, : x.shape[1]] = x[a:b]
                    if extra is not None:
                        copied[: b - a, -1] = torch.from_numpy(extra(rows.base[a:b]))
                    h = copied[:taken]
                total += h.sum()
                if taken not in rooms:
                    rooms[taken] = [z[:taken] for z in room]
                for (offset, matrix), z in zip(below, rooms[taken], strict=True):
                    h = torch.addmm(offset, h, matrix, out=z)
                    apply(h, h)
                if outputs == 1:
                    torch.addmv(bias, h, weight, out=flat[a : a + taken])
                else:
                    torch.addmm(bias, h, weight, out=out[a : a + taken])
    out = out[: rows.rows]
    if extra is None:
        out[:, 0] += torch.from_numpy(rows.base)
    return out.numpy(), bool(torch.isfinite(total + out.sum()))
