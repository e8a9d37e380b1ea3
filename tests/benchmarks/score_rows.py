"""Scoring 5 M rows through 2,000 adapted models, through the learner, against the time of its products alone."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.harness import SGEMM_FLOPS, Figure, interleaved, main, peak_memory_above, sgemm
from tests.benchmarks.segments import book, learner, state

CODE = """
import torch
torch.set_num_threads(1)
from tests.benchmarks.segments import book, learner, state
def prepare():
    given, meta = state(), learner()
    rows = book({segments}, {rows})
    adaptation = meta.adapt(given, book({segments}, {segments} * 20), "bernoulli")
    meta.predict(given, adaptation, rows.select([0]), "bernoulli")
    return given, meta, adaptation, rows
def work(prepared):
    given, meta, adaptation, rows = prepared
    return meta.predict(given, adaptation, rows, "bernoulli")
"""


def benchmark(quick: bool) -> Sequence[Figure]:
    """Seconds and memory, checks included."""
    segments, rows = (200, 250_000) if quick else (2_000, 5_000_000)
    given, meta = state(), learner()
    scored = book(segments, rows)
    adaptation = meta.adapt(given, book(segments, segments * 20), "bernoulli")
    runs = {"score": lambda: meta.predict(given, adaptation, scored, "bernoulli"), "sgemm": sgemm()}
    seconds = interleaved(runs, 5)
    floor = rows * 2 * (2 * 64 * 64 + 64) / (SGEMM_FLOPS / seconds["sgemm"])
    memory = peak_memory_above(CODE.format(segments=segments, rows=rows))
    return [
        Figure("score_rows", seconds["score"], "s", seconds["score"] / floor, "FLOP floor", 1.5, 1.2),
        Figure("score_rows.memory", memory, "MiB above the input", None, "", 300, 100),
        Figure("sgemm", SGEMM_FLOPS / seconds["sgemm"] / 1e9, "GFLOP/s"),
    ]


if __name__ == "__main__":
    main(benchmark)
