"""Few-shot digits: scikit-learn's 8 x 8 digits, pairs of unseen digits as tasks, all kinds of learner in one table.

Learners train on pairs of five digits, stop early by pairs of two others and are judged on pairs of the last three,
five rows of each class as support; what they know of these is only the support. Three splits, each with other digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.datasets import load_digits

from metarisk.domain import Episodes, Learner, Packed
from metarisk.learners.gradient.maml import Maml
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.loop import Loop
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.metric.siamese import Siamese
from tests.benchmarks.harness import Figure, main

SPLITS = ((1, 4, 7), (0, 3, 8), (2, 5, 9))
SHOTS = 5


def learners(steps: int) -> Mapping[str, Learner]:
    """The same body for all: 64 inputs, 64 hidden, 32 embedding where there is one; no base score exists here."""
    loop = Loop(steps=steps, rate=2e-3, meta_batch=16, device="cpu", evaluate_every=max(1, steps // 10), patience=3)
    shape = {"support_rows": 2 * SHOTS, "query_rows": 30, "fusion": "none"}
    return {
        "siamese": Siamese(**shape, loop=loop),
        "matching": Matching(**shape, loop=loop),
        "prototypical": Prototypical(**shape, loop=loop),
        "maml": Maml(**shape, hidden=(64, 32), inner_rate=0.3, loop=loop),
        "map_head": MapNetwork(**shape, hidden=(64, 32), loop=loop),
    }


def tasks(digits: Sequence[int], count: int, seed: int, *, turned: bool) -> Episodes:
    """Binary tasks of two classes, which of them is the event by chance: 5 + 5 support rows, 15 + 15 query rows.

    `turned` makes eight classes of a digit, by quarter turns and mirroring, as matching networks did on Omniglot.
    """
    data = load_digits()
    images = (data.images / 8.0 - 1.0).astype(np.float32)
    rng = np.random.default_rng(seed)
    classes = [(digit, turn) for digit in digits for turn in range(8 if turned else 1)]

    def draw(number: int) -> np.ndarray:
        digit, turn = classes[number]
        chosen = images[rng.choice(np.flatnonzero(data.target == digit), SHOTS + 15, False)]
        chosen = np.rot90(chosen, turn % 4, axes=(1, 2))
        return (chosen[:, :, ::-1] if turn >= 4 else chosen).reshape(SHOTS + 15, 64)

    pairs = [[draw(number) for number in rng.choice(len(classes), 2, False)] for _ in range(count)]

    def packed(part: slice) -> Packed:
        x = np.concatenate([one[part] for pair in pairs for one in pair])
        each = len(x) // count
        y = np.tile(np.repeat([0.0, 1.0], each // 2), count).astype(np.float32)
        keys = tuple((f"task {i}",) for i in range(count))
        return Packed(keys, np.arange(count + 1) * each, x, y, np.ones_like(y), np.zeros_like(y))

    return Episodes(packed(slice(0, SHOTS)), packed(slice(SHOTS, None)))


def compare(unseen: Sequence[int], steps: int, count: int) -> dict[str, tuple[float, float]]:
    """Accuracy and log-loss of each learner on 300 pairs of the unseen digits, after training on `count` tasks."""
    seen = [digit for digit in range(10) if digit not in unseen]
    train, stop = tasks(seen[:5], count, 0, turned=True), tasks(seen[5:], 200, 2, turned=True)
    judge = tasks(unseen, 300, 1, turned=False)
    found = {}
    for name, learner in learners(steps).items():
        state = learner.train(train, stop, "bernoulli", seed=0, progress=lambda done, total, note: None)
        adaptation = learner.adapt(state, judge.support, "bernoulli")
        eta, _ = learner.predict(state, adaptation, judge.query, "bernoulli")
        y = judge.query.y
        found[name] = (float(((eta > 0) == (y == 1)).mean()), float((np.logaddexp(0, eta) - y * eta).mean()))
    return found


def benchmark(quick: bool) -> Sequence[Figure]:
    """Means over the splits."""
    splits = SPLITS[:1] if quick else SPLITS
    tables = [compare(unseen, 120 if quick else 600, 500 if quick else 2000) for unseen in splits]
    figures = []
    for name in tables[0]:
        accuracy, loss = np.mean([table[name] for table in tables], axis=0)
        figures.append(Figure(f"digits.{name}.accuracy", float(accuracy), "share of rows"))
        figures.append(Figure(f"digits.{name}.log_loss", float(loss), "nats a row"))
    return figures


if __name__ == "__main__":
    main(benchmark)
