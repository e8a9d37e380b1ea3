"""MAP heads: 2,000 ragged segments (268 k rows) with Laplace posteriors, 5,000 crossed cells, and how cost grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metarisk.domain import Packed
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.heads.map_network import MapNetwork
from tests.benchmarks.harness import SGEMM_FLOPS, Figure, interleaved, main, peak_memory_above, sgemm
from tests.benchmarks.segments import WIDTHS, book

HEADS = {
    "body_64_16": MapNetwork(hidden=(64, 16)),
    "inputs_64": MapNetwork(),
    "body_64_64": MapNetwork(hidden=(64, 64)),
}
CODE = """
import torch
torch.set_num_threads(1)
from tests.benchmarks.map_head import HEADS, state
from tests.benchmarks.segments import book
def prepare():
    head, rows = HEADS["inputs_64"], book({segments}, {rows})
    head.adapt(state(head), rows.select([0]), "bernoulli")
    return head, rows
def work(given):
    return given[0].adapt(state(given[0]), given[1], "bernoulli")
"""


def state(head: MapNetwork) -> dict[str, np.ndarray]:
    """A state as before training."""
    start = head._start(WIDTHS[0], np.random.default_rng(0))
    return {**start, "centre": np.array(0.0), "noise": np.array(1.0)}


def crossed(cells: int, seed: int = 0) -> Packed:
    """Cells of 50 products and as many regions as it takes, 54 rows a cell on average, ragged."""
    rng = np.random.default_rng(seed)
    keys = tuple((f"region {i // 50}", f"product {i % 50}") for i in range(cells))
    sizes = rng.multinomial(54 * cells, rng.dirichlet(np.full(cells, 0.5)))
    base = rng.normal(-2, 1, 54 * cells)
    eta = base + np.repeat(rng.normal(0, 0.3, cells), sizes)
    y = (rng.random(len(base)) < 1 / (1 + np.exp(-eta))).astype(float)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Packed(keys, starts, np.zeros((len(base), 0)), y, np.ones(len(base)), base)


def benchmark(quick: bool) -> Sequence[Figure]:
    """Processor seconds, checks, canonical order and posteriors included."""
    segments, rows, cells = (200, 26_800, 500) if quick else (2_000, 268_000, 5_000)
    bounds = (None, None) if quick else (1.0, 0.3)
    ragged = book(segments, rows)
    learned = {
        "centre": np.array(-2.0),
        "damping": np.array(0.85),
        "shared_variance": np.array([0.25, 0.05]),
        "parent_variance": np.array([0.03, 0.03]),
        "cell_variance": np.array(0.05),
        "noise_variance": np.array(1.0),
    }
    books = {share * cells: crossed(share * cells) for share in (1, 2)}
    runs = {name: (lambda head=head: head.adapt(state(head), ragged, "bernoulli")) for name, head in HEADS.items()}
    runs |= {
        f"{count} cells": (lambda one=one: MapHead().adapt(learned, one, "bernoulli")) for count, one in books.items()
    }
    seconds = interleaved({**runs, "sgemm": sgemm()}, 2 if quick else 3)
    rate = SGEMM_FLOPS / seconds["sgemm"]
    figures = []
    for name, head in HEADS.items():
        width = state(head)["mean"].size
        # two exact Hessians are the least: one to start from, one for the posterior
        floor = 2 * 2 * rows * width**2 / rate
        figures.append(Figure(f"map_head.{name}", seconds[name], "s", None, "", *bounds))
        figures.append(
            Figure(f"map_head.{name}.against_floor", seconds[name], "s", seconds[name] / floor, "2 Hessians")
        )
    once, twice = (seconds[f"{count} cells"] for count in books)
    figures.append(Figure(f"map_head.hierarchical.cells_{cells}", once, "s", None, "", *bounds))
    figures.append(Figure(f"map_head.hierarchical.cells_{2 * cells}", twice, "s", twice / once, f"{cells} cells"))
    memory = peak_memory_above(CODE.format(segments=segments, rows=rows))
    figures.append(Figure("map_head.inputs_64.memory", memory, "MiB above the input", None, "", 300, 100))
    return figures


if __name__ == "__main__":
    main(benchmark)
