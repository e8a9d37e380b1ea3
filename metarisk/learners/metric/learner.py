"""What metric learners share: an embedding, calibrated scores from similarity to a segment's support, adapt, predict.

How similarity is measured and learned is in `prototypical`, `matching` and `siamese`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Adaptation, Array, Arrays, Episodes, LikelihoodName, Packed, Progress
from metarisk.learners.episodic import (
    apply_body,
    as_tensors,
    blocks,
    centre_of,
    mean_loss,
    meta_train,
    prepare,
    require_head,
    scored_blocks,
    single_output,
    start_body,
    whole,
)
from metarisk.learners.likelihoods import LIKELIHOODS, Likelihood
from metarisk.learners.loop import Loop, Parameters
from metarisk.learners.options import require_range
from metarisk.learners.packing import Block, Fusion, canonical, check

SCORE_NUMBERS = 1 << 20
"""Numbers in the largest array while rows are scored."""


@dataclass(frozen=True)
class MetricLearner(ABC):
    """Scores a row by its similarity to the support rows of its segment, as a calibrated logit.

    The score is o + bias + correction, where o is the base score if it is an offset and 0 if not. The correction
    compares what the support shows with what the pooled score had expected of it, and shrinks to 0 as support thins: an
    unseen segment scores o + bias. Bias, shrinkage and embedding minimise the log-loss of query rows, whatever the
    class ratio, so class imbalance needs no re-weighting.

    Attributes:
        hidden: widths of the embedding network before its last, linear layer.
        embedding: its outputs.
        fusion: how the base score enters.
        support_rows, query_rows: most rows of a task in one training step.
        max_support: most support rows that an adapted segment keeps where it keeps rows: events first, half at most;
            the weights of what is kept of a class add up to those of the whole class.
        loop: the training loop; its precision is also that of adaptation.
    """

    hidden: tuple[int, ...] = (64,)
    embedding: int = 32
    fusion: Fusion = "offset"
    support_rows: int = 64
    query_rows: int = 64
    max_support: int = 512
    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        require_head(self.hidden, self.fusion, self.support_rows, self.query_rows)
        require_range("embedding", self.embedding, least=1)
        require_range("max_support", self.max_support, least=2)

    @property
    @abstractmethod
    def keeps_rows(self) -> bool:
        """Whether the summary of a segment is rows, (B, n, ...), and not numbers, (B, ...)."""

    @abstractmethod
    def summarise(self, parameters: Parameters, embedded: Tensor, block: Block, expected: Tensor) -> dict[str, Tensor]:
        """What an adapted segment is.

        Args:
            parameters: the learned ones.
            embedded: support rows (B, n, E).
            block: the same rows; those of weight 0 are not there.
            expected: (B, n) probabilities of the pooled score.
        """

    @abstractmethod
    def correct(self, parameters: Parameters, summary: Mapping[str, Tensor], embedded: Tensor) -> Tensor:
        """The correction (B, m) of rows with embedding (B, m, E)."""

    def start(self, rng: np.random.Generator) -> dict[str, Array]:
        """Parameters of the learner's own, before training."""
        return {}

    def extra_loss(self, parameters: Parameters, support: tuple[Tensor, Block], query: tuple[Tensor, Block]) -> Tensor:
        """Loss (B,) beyond the log-loss of the query rows, given (embedding, block) of both."""
        return torch.zeros(len(support[1].y), dtype=support[1].y.dtype, device=support[1].y.device)

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Learn the embedding and the calibration. Raises ModelError unless the likelihood is Bernoulli."""
        loss = self._likelihood(likelihood)
        tasks = prepare(tasks, loss)
        centre = centre_of(tasks.support)
        extra = {"centre": np.array(centre)}
        inputs = tasks.support.x.shape[1] + (self.fusion == "feature")
        rng = np.random.default_rng(seed)
        start = {
            **start_body(inputs, (*self.hidden, self.embedding), rng),
            "bias": np.array(self._pooled_bias(tasks)),
            "log_mass": np.array(np.log(5.0)),
            **self.start(rng),
        }

        def losses(parameters: Parameters, support: Block, query: Block) -> Tensor:
            return self.losses(parameters, support, query, centre)

        return meta_train(self, tasks, start, losses, extra, validation, loss, seed=seed, progress=progress)

    def losses(self, parameters: Parameters, support: Block, query: Block, centre: float) -> Tensor:
        """What training minimises (B,): the log-loss of query rows, and what the learner adds; `centre` of the base."""
        embedded = [self._embed(parameters, block, centre) for block in (support, query)]
        expected = whole(torch.sigmoid, self._pooled(parameters, support.base))
        summary = self.summarise(parameters, embedded[0], support, expected)
        eta = self._pooled(parameters, query.base) + self.correct(parameters, summary, embedded[1])
        other = self.extra_loss(parameters, (embedded[0], support), (embedded[1], query))
        return mean_loss(LIKELIHOODS["bernoulli"], eta, query) + other

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """What each segment's support becomes: numbers by segment, or packed rows under the starts array `starts`."""
        self._likelihood(likelihood).validate(support.y)
        rows, _ = canonical(check(support, features=self._inputs(state), name="support"))
        if self.keeps_rows:
            rows = thinned(rows, self.max_support)
        parameters, centre = as_tensors(state, self.loop.dtype), float(state["centre"])
        empty = self._summary(parameters, _no_rows(rows.x.shape[1], self.loop.dtype), centre)
        if self.keeps_rows:
            arrays = {name: np.zeros((rows.rows, *value.shape[2:]), _numpy(value)) for name, value in empty.items()}
        else:
            arrays = {name: value.numpy().repeat(len(rows.keys), axis=0) for name, value in empty.items()}
        for chosen, block in blocks(rows, max(rows.x.shape[1], *self.hidden, self.embedding), self.loop.dtype):
            within = np.arange(block.y.shape[1])
            real = within < rows.sizes[chosen, None]
            index = (rows.starts[chosen, None] + within)[real]
            for name, value in self._summary(parameters, block, centre).items():
                if self.keeps_rows:
                    arrays[name][index] = value.numpy()[real]
                else:
                    arrays[name][chosen] = value.numpy()
        if not self.keeps_rows:
            return Adaptation(support.keys, arrays)
        return Adaptation(support.keys, {**arrays, "starts": rows.starts}, dict.fromkeys(arrays, "starts"))

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """Logit (N,); a metric learner states no variance."""
        self._likelihood(likelihood)
        check(rows, features=self._inputs(state))
        parameters, centre = as_tensors(state, self.loop.dtype), float(state["centre"])
        place = {key: number for number, key in enumerate(adaptation.keys)}
        eta = np.empty(rows.rows)
        for segment, key in enumerate(rows.keys):
            summary = self._adapted(adaptation, place.get(key))
            length = max((value.shape[1] for value in summary.values()), default=1) if self.keeps_rows else 1
            step = max(1, SCORE_NUMBERS // max(length * (1 + self.keeps_rows), rows.x.shape[1], *self.hidden))
            for part, block in scored_blocks(rows, segment, step, self.loop.dtype):
                score = self._pooled(parameters, block.base)
                if summary:
                    score = score + self.correct(parameters, summary, self._embed(parameters, block, centre))
                eta[part] = score[0, : part.stop - part.start].numpy()
        return eta, None

    def embed(self, state: Arrays, rows: Packed) -> Array:
        """The learned embedding (N, E) of rows, by which segments may be compared."""
        check(rows, features=self._inputs(state))
        parameters, centre = as_tensors(state, self.loop.dtype), float(state["centre"])
        embedded = np.empty((rows.rows, self.embedding))
        step = max(1, SCORE_NUMBERS // max(rows.x.shape[1], *self.hidden, self.embedding))
        for segment in range(len(rows.keys)):
            for part, block in scored_blocks(rows, segment, step, self.loop.dtype):
                embedded[part] = self._embed(parameters, block, centre)[0, : part.stop - part.start].numpy()
        return embedded

    def _likelihood(self, name: LikelihoodName) -> Likelihood:
        return single_output(name, type(self).__name__, frozenset({"bernoulli"}))

    def _inputs(self, state: Arrays) -> int:
        """Columns of x that the state was trained on."""
        return int(state["body.0"].shape[0]) - 1 - (self.fusion == "feature")

    def _pooled(self, parameters: Parameters, base: Tensor) -> Tensor:
        """Logit (B, n) before the support is looked at."""
        return (base if self.fusion == "offset" else torch.zeros_like(base)) + parameters["bias"]

    def _embed(self, parameters: Parameters, block: Block, centre: float) -> Tensor:
        """Embedding (B, n, E)."""
        x = block.x
        if self.fusion == "feature":
            x = torch.cat([x, (block.base - centre).unsqueeze(-1)], -1)
        return apply_body(parameters, x, last_linear=True)

    def _summary(self, parameters: Parameters, block: Block, centre: float) -> dict[str, Tensor]:
        expected = whole(torch.sigmoid, self._pooled(parameters, block.base))
        return self.summarise(parameters, self._embed(parameters, block, centre), block, expected)

    def _adapted(self, adaptation: Adaptation, number: int | None) -> dict[str, Tensor]:
        """The summary of one adapted segment as a batch of one; empty where nothing was adapted."""
        if number is None:
            return {}
        if not self.keeps_rows:
            return {name: torch.from_numpy(v[number : number + 1]) for name, v in adaptation.arrays.items()}
        first, last = adaptation.arrays["starts"][number : number + 2]
        if first == last:
            return {}
        return {name: torch.from_numpy(adaptation.arrays[name][None, first:last]) for name in adaptation.ragged}

    def _pooled_bias(self, tasks: Episodes) -> float:
        """Log-odds of all rows where the base score is no offset, 0 where it is."""
        if self.fusion == "offset":
            return 0.0
        rows = [tasks.support, tasks.query]
        events = sum(float(part.weight @ part.y) for part in rows) + 1.0
        total = sum(float(part.weight.sum()) for part in rows) + 2.0
        return float(np.log(events / (total - events)))


def evidence(kernel: Tensor, block: Block, expected: Tensor, log_mass: Tensor) -> Tensor:
    """How far the outcomes near a row differ from those expected, as a change of its logit (B, m).

    With A1, A0 the kernel-weighted events and non-events of the support, X1 and X0 those expected of it by the pooled
    score, and m = exp(log_mass): log((A1 + m) / (X1 + m)) - log((A0 + m) / (X0 + m)). It is 0 without support; as
    support grows it becomes the observed over the expected odds, whatever the class ratio.

    Args:
        kernel: (B, m, n) similarity of m rows to n support rows, or (B, 1, n) for all rows alike.
        block: the support rows; only y and weight are read.
        expected: (B, n) probabilities.
        log_mass: the shrinkage, in rows.
    """
    counted = torch.stack([block.y, 1 - block.y, expected, 1 - expected], -1) * block.weight.unsqueeze(-1)
    # each is a sum of what is not negative: taken from the total, non-events would cancel below 0
    events, others, expected_events, expected_others = torch.log(kernel @ counted + torch.exp(log_mass)).unbind(-1)
    return events - expected_events - others + expected_others


def thinned(packed: Packed, most: int) -> Packed:
    """At most `most` rows a segment: events first, half of them at most unless non-events are fewer.

    Canonical rows stand in the order of a hash, so the first of a class are a sample of it; the weights of those kept
    add up to those of the class. Rows of weight 0 go first.
    """
    if not (packed.sizes > most).any():
        return packed
    keep, weight = [], packed.weight.copy()
    for segment, size in enumerate(packed.sizes):
        rows = np.arange(packed.starts[segment], packed.starts[segment + 1])
        if size > most:
            classes = [rows[(packed.y[rows] == y) & (packed.weight[rows] > 0)] for y in (0, 1)]
            events = min(len(classes[1]), max(most // 2, most - len(classes[0])))
            chosen = (classes[0][: most - events], classes[1][:events])
            for kept, whole in zip(chosen, classes, strict=True):
                if len(kept):
                    weight[kept] *= packed.weight[whole].sum() / packed.weight[kept].sum()
            rows = np.sort(np.concatenate(chosen))
        keep.append(rows)
    index = np.concatenate(keep)
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in keep])]).astype(np.int64)
    return Packed(packed.keys, starts, packed.x[index], packed.y[index], weight[index], packed.base[index])


def _no_rows(inputs: int, dtype: torch.dtype) -> Block:
    """A block of one segment without rows."""
    zero = torch.zeros(1, 1, dtype=dtype)
    return Block(torch.zeros(1, 1, inputs, dtype=dtype), zero, zero, zero)


def _numpy(value: Tensor) -> np.dtype[Any]:
    return value.numpy().dtype
