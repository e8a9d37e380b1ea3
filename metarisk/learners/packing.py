"""Rows of many segments as arrays: checks, canonical order, and blocks of sampled tasks on the device.

Nothing here knows a learner. Tables of people and dates become packed rows in `tasks`, on a higher floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array, DataError, Packed, segment_name

Fusion = Literal["offset", "feature", "none"]
"""How a base score enters a learner: added to its output, one more input, or not at all."""


def check(packed: Packed, *, features: int | None = None, name: str = "rows", inputs: bool = True) -> Packed:
    """The same rows, known to be usable: shapes agree, floats are finite, weights are not negative.

    Args:
        packed: what to check.
        features: columns of `x` that the model was trained on; None accepts any number.
        name: what the rows are, for the error.
        inputs: look for numbers that are not finite in `x` too, which takes a pass over it.

    Raises:
        DataError: saying what was expected and what came, with the segment where one is to blame.
    """

    def refuse(expected: str, came: str, remedy: str) -> DataError:
        return DataError(f"{name}: expected {expected}, got {came}", remedy=remedy)

    remedy = "pack the rows with metarisk.tasks, or convert the arrays"
    for field in ("starts", "x", "y", "weight", "base"):
        value = getattr(packed, field)
        if not isinstance(value, np.ndarray):
            raise refuse(f"{field} as a numpy array on the CPU", f"{type(value).__name__}", remedy)
    if packed.x.ndim != 2:
        raise refuse("x of shape (N, D)", f"{packed.x.shape}", remedy)
    rows, width = packed.x.shape
    if features is not None and width != features:
        raise refuse(f"{features} features, as in training", f"{width}", "score with the features of the model")
    for field in ("x", "y", "weight", "base"):
        value = getattr(packed, field)
        if value.dtype not in (np.float32, np.float64):
            raise refuse(f"{field} as float32 or float64", f"{value.dtype}", remedy)
        if field != "x" and value.shape != (rows,):
            raise refuse(f"{field} of shape ({rows},)", f"{value.shape}", remedy)
    starts = packed.starts
    if starts.shape != (len(packed.keys) + 1,) or not np.issubdtype(starts.dtype, np.integer):
        raise refuse(f"integer starts of shape ({len(packed.keys) + 1},)", f"{starts.dtype} {starts.shape}", remedy)
    if starts[0] != 0 or starts[-1] != rows or (np.diff(starts) < 0).any():
        raise refuse(f"starts that rise from 0 to {rows}", f"{starts[0]} to {starts[-1]}", remedy)
    for field in ("x", "y", "weight", "base") if inputs else ("y", "weight", "base"):
        where = _first_not_finite(getattr(packed, field))
        if where is not None:
            row, column = where
            key = packed.keys[int(np.searchsorted(starts, row, side="right")) - 1]
            place = f"{field}[{row}, {column}]" if field == "x" else f"{field}[{row}]"
            raise refuse(
                "finite numbers",
                f"{place} = {getattr(packed, field).reshape(rows, -1)[row, column]} in segment {segment_name(key)}",
                "impute or drop the row before packing",
            )
    if rows and packed.weight.min() < 0:
        row = int(packed.weight.argmin())
        raise refuse("weights >= 0", f"weight[{row}] = {packed.weight[row]}", "weights count rows: drop negative ones")
    return packed


def _first_not_finite(values: Array) -> tuple[int, int] | None:
    """Row and column of the first number that is not finite; the sum of a block finds it without a mask of all rows."""
    if not values.size:
        return None
    flat = values.reshape(len(values), -1)
    for start in range(0, len(flat), 65_536):
        block = flat[start : start + 65_536]
        with np.errstate(over="ignore", invalid="ignore"):
            total = block.sum(dtype=np.float64)
        if not np.isfinite(total):
            found = np.argwhere(~np.isfinite(block))
            if len(found):
                return start + int(found[0, 0]), int(found[0, 1])
    return None


def canonical(packed: Packed) -> tuple[Packed, Array]:
    """Rows of each segment in the order of `canonical_order`, and that order (N,)."""
    order = canonical_order(packed)
    return take(packed, order), order


def canonical_order(packed: Packed) -> Array:
    """An order (N,) inside segments that depends on the rows' content alone.

    Sums over rows are rounded in the order of the rows, so sorted rows make every later result independent, to the last
    bit, of the order in the source. Rows are ordered by one number, the segment above a hash of the row's bits; rows of
    equal numbers that are not equal (never seen) are told apart by a full sort.
    """
    index = packed.index
    x = packed.x
    if x.dtype == np.float32 and x.shape[1] % 2 == 0 and x.flags.c_contiguous:
        x = x.view(np.uint64)
    columns = [packed.y, packed.weight, packed.base, *x.T]
    # In blocks that stay in the cache, since columns of x are not contiguous.
    starts = range(0, packed.rows, 4096)
    parts = [_hash([column[start : start + 4096] for column in columns]) for start in starts]
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
    above = np.uint64(64 - len(packed.keys).bit_length())
    number = (index.astype(np.uint64) << above) | (hashes >> (np.uint64(64) - above))
    order = np.argsort(number)
    tied = np.flatnonzero(np.diff(number[order]) == 0)
    if any((_bits(column[order[tied]]) != _bits(column[order[tied + 1]])).any() for column in columns):
        order = np.lexsort((*(_bits(column) for column in columns), index))
    return order


def take(packed: Packed, order: Array) -> Packed:
    """The rows in another order, or some of them again; segments keep their sizes, so stay inside segments."""
    return replace(packed, x=packed.x[order], y=packed.y[order], weight=packed.weight[order], base=packed.base[order])


def _bits(column: Array) -> Array:
    return np.ascontiguousarray(column).view(np.uint32 if column.dtype == np.float32 else np.uint64)


def _hash(columns: list[Array]) -> Array:
    """A 64-bit multiply-and-shift hash of each row, column by column."""
    value = np.full(len(columns[0]), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in columns:
        value ^= _bits(column)
        value *= np.uint64(0xD6E8FEB86659FD93)
        value ^= value >> np.uint64(32)
    return value


def shuffled(packed: Packed, seed: int | Sequence[int]) -> Packed:
    """Canonical rows, then each segment's rows in a random order that `seed` fixes; a window of them is a sample."""
    ordered, _ = canonical(packed)
    noise = np.random.default_rng(seed).random(packed.rows)
    return take(ordered, np.lexsort((noise, ordered.index)))


def first_rows(packed: Packed, rows: int) -> Packed:
    """At most the first `rows` rows of every segment."""
    within = np.arange(packed.rows) - packed.starts[packed.index]
    keep = within < rows
    starts = np.concatenate([[0], np.cumsum(np.minimum(packed.sizes, rows))]).astype(np.int64)
    return Packed(packed.keys, starts, packed.x[keep], packed.y[keep], packed.weight[keep], packed.base[keep])


class Block(NamedTuple):
    """Rows of B tasks side by side; where a task has fewer than n rows, the rest has weight 0 (and finite values).

    Shapes: x (B, n, D), y, weight and base (B, n).
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    base: Tensor


class Store:
    """Packed rows on the device, from which blocks of tasks are gathered by index.

    Args:
        packed: checked rows; a block takes windows of consecutive rows, so shuffle them first to sample.
        device: where they live.
        dtype: of every array.
        intercept: append a column of ones to x, so that biases are rows of weight matrices.
    """

    def __init__(
        self, packed: Packed, *, device: torch.device, dtype: torch.dtype = torch.float32, intercept: bool = False
    ) -> None:
        def place(values: Array) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device=device, dtype=dtype)

        # One spare row of zeros keeps the gather valid for a task without rows at the very end.
        x = torch.zeros(packed.rows + 1, packed.x.shape[1] + intercept, device=device, dtype=dtype)
        x[:-1, : packed.x.shape[1]] = place(packed.x)
        if intercept:
            x[:, -1] = 1.0
        zero = torch.zeros(1, device=device, dtype=dtype)
        self.x = x
        self.y, self.weight, self.base = (
            torch.cat([place(values), zero]) for values in (packed.y, packed.weight, packed.base)
        )
        self.starts = torch.from_numpy(packed.starts[:-1].astype(np.int64)).to(device)
        self.sizes = torch.from_numpy(packed.sizes.astype(np.int64)).to(device)
        self.longest = int(packed.sizes.max(initial=0))

    def block(self, tasks: Tensor, offset: Tensor, rows: int) -> Block:
        """Windows of `rows` rows of some tasks, round the end of each task's rows, every row at most once.

        Args:
            tasks: int64 (B,), which tasks.
            offset: float (B,) in [0, 1), where in its rows each window begins.
            rows: n, the window's length.
        """
        sizes = self.sizes[tasks].unsqueeze(1)
        position = torch.arange(rows, device=tasks.device)
        begin = (offset.unsqueeze(1) * sizes).long()
        within = (begin + position) % sizes.clamp_min(1)
        index = (self.starts[tasks].unsqueeze(1) + within).flatten()
        shape = (len(tasks), rows)
        weight = self.weight[index].view(shape) * (position < sizes)
        x = self.x.index_select(0, index).view(*shape, -1)
        return Block(x, self.y[index].view(shape), weight, self.base[index].view(shape))
