"""Segments, packed rows and episodes, and the protocol of learners. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarisk.domain.portfolio import LikelihoodName

Array = NDArray[Any]
Arrays = Mapping[str, Array]
SegmentKey = tuple[str, ...]


def floats(values: ArrayLike) -> Array:
    """As float64, without a copy where they are that."""
    return np.asarray(values, dtype=np.float64)


def segment_name(key: SegmentKey) -> str:
    """One printable, collision-free name: values joined by ``|``, with ``|`` and ``\\`` escaped."""
    return "|".join(value.replace("\\", "\\\\").replace("|", "\\|") for value in key)


@dataclass(frozen=True)
class Packed:
    """Rows of many segments laid end to end; rows of segment ``i`` are ``starts[i]:starts[i+1]``.

    Attributes:
        keys: segment keys, length S; a key may appear more than once (one task a segment and cut-off).
        starts: int64 (S+1,), non-decreasing, ``starts[0] == 0`` and ``starts[-1] == N``.
        x: float (N, D), C-contiguous, no NaN: what a network sees.
        y: float (N,), in the likelihood's range; zeros where the rows are to be scored and have no label.
        weight: float (N,), non-negative.
        base: float (N,): a base score on the link scale (logit, log rate, log variance); zeros if there is none.
    """

    keys: tuple[SegmentKey, ...]
    starts: Array
    x: Array
    y: Array
    weight: Array
    base: Array

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return int(self.x.shape[0])

    @property
    def sizes(self) -> Array:
        """Rows of each segment, int64 (S,)."""
        return np.diff(self.starts)

    @property
    def index(self) -> Array:
        """Segment number of each row, int64 (N,)."""
        return np.repeat(np.arange(len(self.keys)), self.sizes)

    def select(self, segments: Sequence[int] | Array) -> Packed:
        """The same rows of some segments, in the order given."""
        chosen = np.asarray(segments, dtype=np.int64)
        sizes = self.sizes[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(self.starts[chosen] - starts[:-1], sizes) + np.arange(starts[-1])
        return Packed(
            tuple(self.keys[i] for i in chosen),
            starts,
            np.ascontiguousarray(self.x[rows]),
            self.y[rows],
            self.weight[rows],
            self.base[rows],
        )

    def with_base(self, base: Array) -> Packed:
        """The same rows with another base score (N,)."""
        return replace(self, base=base)


@dataclass(frozen=True)
class Episodes:
    """Tasks of meta-learning: support rows adapt, query rows (later in time) judge. Same segments in both."""

    support: Packed
    query: Packed

    def __post_init__(self) -> None:
        if self.support.keys != self.query.keys:
            raise ValueError("support and query of Episodes must hold the same segments in the same order")


@dataclass(frozen=True)
class Adaptation:
    """What the inner loop learned: arrays whose first axis is the segment.

    Metric learners keep embedded supports of unequal length; such an array is packed and listed in ``ragged`` with the
    name of its (S+1,) starts array.
    """

    keys: tuple[SegmentKey, ...]
    arrays: Arrays
    ragged: Mapping[str, str] = field(default_factory=dict)


Progress = Callable[[int, int, str], None]
"""Called with (done, total, note) by long work."""


class Learner(Protocol):
    """One way to learn across segments. Instances are frozen dataclasses whose fields are the configuration.

    What every learner keeps, and tests/unit/test_every_learner.py asks of each row of `adapt.LEARNERS`:

    - Bits: all three methods are pure. The same arguments give the same bits on the same hardware, whatever the threads
      (`learners.threads.one_thread`). `state` holds numpy arrays only, so that it can be written as safetensors.
    - Row order: a segment's rows in another order change no bit of an adaptation (`learners.packing.canonical`), and
      the batch in which a row is scored none of its score. Nor of training, unless it draws rows by their place.
    - Odd segments (no rows, one row, one class, constant inputs, weights of 0) give finite numbers.
    - Refusals: a setting out of range is a ConfigError when the learner is made, rows that cannot be used are a
      DataError (`learners.packing.check`) and labels out of range or a likelihood that it does not take a ModelError
      (`learners.episodic.single_output`), wherever they come in.

    Example:
        >>> import numpy as np
        >>> from metarisk.adapt import LEARNERS
        >>> keys, starts = (("north",), ("south",)), np.array([0, 3, 4])
        >>> y, x, one = np.array([1.0, 1.0, 0.0, 0.0]), np.zeros((4, 1)), np.ones(4)
        >>> rows = Packed(keys, starts, x, y, weight=one, base=0 * one)
        >>> learner = LEARNERS["map_head"].make(slope_variance=1e-6)
        >>> state = learner.train(Episodes(rows, rows), None, "bernoulli", seed=0, progress=lambda *told: None)
        >>> score, variance = learner.predict(state, learner.adapt(state, rows, "bernoulli"), rows, "bernoulli")
        >>> bool(score[0] > score[3]), score.shape, variance.shape
        (True, (4,), (4,))
    """

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Meta-train; `validation` (later in time) is for early stopping. Raises ModelError on divergence."""
        ...

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """Adapt to every segment of `support` at once; a segment without rows gets the prior."""
        ...

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """Link-scale score (N,) of rows whose segments are `rows.keys`, and its posterior variance or None.

        A segment of `rows` that `adaptation` lacks is scored from the prior (and its parents, where the learner has
        them). Segments are matched by key, not by position.
        """
        ...
