"""Segment columns of thousands of values: what a whole `train` of the hierarchical head takes, and what it is worth.

Seconds are those of a train with all its rounds on one thread. Quality is judged on rows that nobody has seen, of 5,000
branches whose effects are drawn: against the same head told the true variances, and against LightGBM that is given the
true base score as an offset and the branch as a category or as its target rate, with early stopping.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import lightgbm
import numpy as np

from metarisk.domain import Array, Episodes, Packed
from metarisk.learners.heads import reduced
from metarisk.learners.heads.map_head import MapHead
from metarisk.metrics import log_loss, paired_bootstrap
from tests.benchmarks.harness import Figure, interleaved, main, peak_memory_above

VARIANCES = (0.16, 0.04, 0.01)
"""Of branches, of what they are crossed with, and of cells."""
GROWTH = (1_250, 2_500, 5_000, 10_000, 20_000)
CODE = """
import torch
torch.set_num_threads(1)
from tests.benchmarks.many_values import book, trained
def prepare():
    trained(book((40, 4), 2_000)[0])
    return book({sizes}, {rows})[0]
def work(given):
    return trained(given)
"""


def book(sizes: tuple[int, int], rows: int, seed: int = 0) -> tuple[Packed, Packed]:
    """Rows of branches crossed with others whose effects are drawn, to learn from and to be judged by."""
    r = np.random.default_rng(seed)
    branch, other = (r.normal(0, np.sqrt(v), size) for v, size in zip(VARIANCES, sizes, strict=False))
    cells = {}
    parts = []
    for _ in range(2):
        codes = np.sort(r.integers(0, sizes[0], rows) * sizes[1] + r.integers(0, sizes[1], rows))
        found, starts = np.unique(codes, return_index=True)
        new = [code for code in found.tolist() if code not in cells]
        cells.update(zip(new, r.normal(0, np.sqrt(VARIANCES[2]), len(new)).tolist(), strict=True))
        own = np.array([cells[code] for code in found.tolist()])
        effect = branch[codes // sizes[1]] + other[codes % sizes[1]] + np.repeat(own, np.diff(np.append(starts, rows)))
        base = r.normal(-2.0, 1.0, rows)
        y = (r.random(rows) < 1 / (1 + np.exp(-base - effect))).astype(float)
        keys = tuple((f"B{code // sizes[1]:06d}", f"M{code % sizes[1]:06d}") for code in found.tolist())
        parts.append(Packed(keys, np.append(starts, rows), np.zeros((rows, 0)), y, np.ones(rows), base))
    return parts[0], parts[1]


def chain(values: int, rows: int, meets: int = 2, seed: int = 3) -> Packed:
    """Rows of branches of which each meets a few others alone: two in a ring, more at random."""
    r = np.random.default_rng(seed)
    branch, which = r.integers(0, values, rows), r.integers(0, meets, rows)
    met = np.column_stack([r.permutation(values) for _ in range(meets)])
    other = (branch + which) % values if meets == 2 else met[branch, which]
    codes = np.sort(branch * values + other)
    found, starts = np.unique(codes, return_index=True)
    base = r.normal(-2.0, 1.0, rows)
    effects = r.normal(0, np.sqrt(VARIANCES[0]), (2, values))
    eta = base + effects[0, codes // values] + effects[1, codes % values]
    y = (r.random(rows) < 1 / (1 + np.exp(-eta))).astype(float)
    keys = tuple((f"B{code // values:06d}", f"M{code % values:06d}") for code in found.tolist())
    return Packed(keys, np.append(starts, rows), np.zeros((rows, 0)), y, np.ones(rows), base)


def off(rows: Packed, state: Mapping[str, Array]) -> float:
    """Largest error of a variance, as a share of it, where nothing is factored; against the factor of all."""
    before, found = (reduced.FACTORED, reduced.FACTOR_COST), []
    for reduced.FACTORED, reduced.FACTOR_COST in ((rows.rows, 0), (0, 0)):
        found.append(MapHead().adapt(state, rows, "bernoulli").arrays)
    reduced.FACTORED, reduced.FACTOR_COST = before
    whole, drawn = found
    return max(
        float(np.abs(drawn[name][..., 0] / whole[name][..., 0] - 1).max()) for name in ("variance", "parent_covariance")
    )


def chains(quick: bool, state: Mapping[str, Array]) -> Sequence[Figure]:
    """Seconds of a chain, and what variances are off where values meet few others and nothing is factored."""
    values = 2_000 if quick else 20_000
    rows, begun = chain(values, 10 * values), time.process_time()
    MapHead().adapt(state, rows, "bernoulli")
    figures = [Figure(f"many_values.adapt.chain_{values}", time.process_time() - begun, "s")]
    wide = {**state, "parent_variance": np.array([1.0, 1.0]), "cell_variance": np.array(0.005)}
    for name, given in (("learned", state), ("wide", wide)):
        for meets in (2, 3):
            error = off(chain(600 if quick else 2_000, 20_000 if quick else 100_000, meets), given)
            figures.append(
                Figure(f"many_values.variances_off.{name}.meets_{meets}", error, "share", None, "", 0.01, 0.01)
            )
    return figures


def trained(rows: Packed, head: MapHead | None = None) -> dict[str, Array]:
    """The state after all rounds."""
    empty = Packed(rows.keys, np.zeros_like(rows.starts), rows.x[:0], rows.y[:0], rows.weight[:0], rows.base[:0])
    learner, tasks = head or MapHead(), Episodes(rows, empty)
    return dict(learner.train(tasks, None, "bernoulli", seed=0, progress=lambda done, total, note: None))


def columns_of(rows: Packed) -> Array:
    """Numbers of branch and other by row (N, 2)."""
    return np.array([[int(value[1:]) for value in key] for key in rows.keys])[rows.index]


def boosted(teach: Packed, judged: Packed, encoded: bool) -> Array:
    """Scores (N,) of LightGBM on base score and segment columns, stopped on a fifth of the rows."""
    inside = np.random.default_rng(1).random(teach.rows) < 0.8
    inputs, later = columns_of(teach).astype(float), columns_of(judged).astype(float)
    if encoded:
        folds = np.random.default_rng(2).integers(0, 5, teach.rows)
        rates = np.zeros_like(inputs)
        for fold in range(5):
            rates[folds == fold] = rated(teach, folds != fold, inputs[folds == fold])
        inputs, later = rates, rated(teach, np.ones(teach.rows, dtype=bool), later)
    given = {"categorical_feature": "auto" if encoded else [0, 1], "params": {"verbose": -1}}
    matrix = np.column_stack([inputs, teach.base])
    sets = [
        lightgbm.Dataset(matrix[part], teach.y[part], init_score=teach.base[part], **given)
        for part in (inside, ~inside)
    ]
    settings = {"objective": "binary", "learning_rate": 0.03, "num_leaves": 15, "min_data_in_leaf": 50,
                "num_threads": 1, "verbose": -1, "seed": 0}  # fmt: skip
    booster = lightgbm.train(
        settings, sets[0], 1_000, [sets[1]], callbacks=[lightgbm.early_stopping(30, verbose=False)]
    )
    return judged.base + booster.predict(np.column_stack([later, judged.base]), raw_score=True)


def rated(teach: Packed, mask: Array, wanted: Array) -> Array:
    """Log of events over those expected by the base score, two of each added, by value of each column (N, 2)."""
    columns, expected = columns_of(teach)[mask], 1 / (1 + np.exp(-teach.base[mask]))
    out = np.zeros_like(wanted)
    for j in range(columns.shape[1]):
        size = int(max(columns[:, j].max(), wanted[:, j].max())) + 1
        told = np.bincount(columns[:, j], weights=teach.y[mask], minlength=size)
        rate = np.log((told + 2) / (np.bincount(columns[:, j], weights=expected, minlength=size) + 2))
        out[:, j] = rate[wanted[:, j].astype(int)]
    return out


def quality(branches: int, rows: int) -> Sequence[Figure]:
    """Log-loss of the head less the oracle's and less LightGBM's, with intervals by branch."""
    teach, judged = book((branches, 4), rows, seed=5)
    head = MapHead(damping=1.0)
    state = trained(teach, head)
    oracle = {**state, "parent_variance": np.array(VARIANCES[:2]), "cell_variance": np.array(VARIANCES[2])}
    scores = {
        "head": head.predict(state, head.adapt(state, teach, "bernoulli"), judged, "bernoulli")[0],
        "oracle": head.predict(oracle, head.adapt(oracle, teach, "bernoulli"), judged, "bernoulli")[0],
        "lightgbm_category": boosted(teach, judged, encoded=False),
        "lightgbm_target": boosted(teach, judged, encoded=True),
        "base": judged.base,
    }
    losses: Mapping[str, Array] = {name: log_loss(score, judged.y) for name, score in scores.items()}
    figures = [
        Figure(f"many_values.quality.log_loss.{name}", float(loss.mean()), "nats") for name, loss in losses.items()
    ]
    for other in ("oracle", "lightgbm_category", "lightgbm_target"):
        found = paired_bootstrap(losses["head"] - losses[other], columns_of(judged)[:, 0])
        bound = 2e-4 if other == "oracle" else 0.0
        value = found.mean if other == "oracle" else found.high
        part = "mean" if other == "oracle" else "upper_end"
        figures.append(Figure(f"many_values.quality.head_minus_{other}.{part}", value, "nats", None, "", bound, bound))
    return figures


def benchmark(quick: bool) -> Sequence[Figure]:
    """Seconds by values, with the growth; memory; quality."""
    books = {(1_000, 4): (20_000, 1.0, 0.33), (20_000, 4): (200_000, 20.0, 6.7), (2_000, 3_000): (200_000, 60.0, 20.0)}
    if quick:
        books = {(1_000, 4): (20_000, 1.0, 0.33)}
    figures = []
    for sizes, (rows, reach, aim) in books.items():
        teach, _ = book(sizes, rows)
        begun = time.process_time()
        trained(teach)
        name = f"many_values.train.values_{sizes[0]}x{sizes[1]}.rows_{rows}"
        figures.append(Figure(name, time.process_time() - begun, "s", None, "", reach, aim))
    state = trained(book((40, 4), 2_000)[0])
    grown = {values: book((values, 4), 10 * values)[0] for values in ((1_000, 2_000) if quick else GROWTH)}
    runs = {
        str(values): (lambda rows=rows: MapHead().adapt(state, rows, "bernoulli")) for values, rows in grown.items()
    }
    figures += chains(quick, state)
    before, seconds = None, interleaved(runs, 5)
    for values, took in seconds.items():
        ratio, bound = (None, None) if before is None else (took / before, 2.4)
        name = f"many_values.adapt.values_{values}"
        figures.append(Figure(name, took, "s", ratio, "half the values and rows", bound, bound))
        before = took
    sizes, rows = ((1_000, 4), 20_000) if quick else ((20_000, 4), 200_000)
    memory = peak_memory_above(CODE.format(sizes=sizes, rows=rows))
    figures.append(Figure(f"many_values.memory.values_{sizes[0]}", memory, "MiB above the rows", None, "", 600, 200))
    return [*figures, *quality(*((500, 20_000) if quick else (5_000, 200_000)))]


if __name__ == "__main__":
    main(benchmark)
