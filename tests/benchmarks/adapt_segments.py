"""Adapting 2,000 ragged segments (268 k rows, 10 gradient steps), through the learner, against its products alone."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.harness import SGEMM_FLOPS, Figure, interleaved, main, peak_memory_above, sgemm
from tests.benchmarks.segments import STEPS, book, learner, state

CODE = """
import torch
torch.set_num_threads(1)
from tests.benchmarks.segments import book, learner, state
def prepare():
    given = state(), book({segments}, {rows})
    learner().adapt(given[0], given[1].select([0]), "bernoulli")
    return given
def work(given):
    return learner().adapt(given[0], given[1], "bernoulli")
"""


def benchmark(quick: bool) -> Sequence[Figure]:
    """Seconds and memory, checks and canonical order included."""
    segments, rows = (200, 26_800) if quick else (2_000, 268_000)
    given, support, meta = state(), book(segments, rows), learner()
    runs = {"adapt": lambda: meta.adapt(given, support, "bernoulli"), "sgemm": sgemm()}
    seconds = interleaved(runs, 3 if quick else 5)
    # forward 2 layers of 64 x 64, deltas of one, weights of two; the head's products are 1.5 % of it
    floor = rows * STEPS * 2 * (5 * 64 * 64 + 3 * 64) / (SGEMM_FLOPS / seconds["sgemm"])
    memory = peak_memory_above(CODE.format(segments=segments, rows=rows))
    result = segments * (2 * 65 * 64 + 65) * 4 / 2**20
    return [
        Figure("adapt_segments", seconds["adapt"], "s", seconds["adapt"] / floor, "FLOP floor", 2.5, 1.5),
        Figure(
            "adapt_segments.memory", memory, f"MiB above the input, result ({result:.0f}) included", None, "", 300, 100
        ),
        Figure("sgemm", SGEMM_FLOPS / seconds["sgemm"] / 1e9, "GFLOP/s"),
    ]


if __name__ == "__main__":
    main(benchmark)
