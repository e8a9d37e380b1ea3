"""How a MAML step grows with tasks, support rows and inner steps: each doubling should cost at most twice as much."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.harness import Figure, interleaved, main
from tests.benchmarks.maml_step import ours


def benchmark(quick: bool) -> Sequence[Figure]:
    """Milliseconds along three axes, from the standard shape; the ratio is to half the size."""
    repeats = 5 if quick else 25
    axes = {
        "tasks": {size: ours(tasks=size) for size in (16, 32, 64, 128)},
        "support_rows": {size: ours(support=size) for size in (64, 128, 256, 512)},
        "steps": {size: ours(steps=size) for size in (2, 4, 8, 16)},
    }
    figures = []
    for axis, runs in axes.items():
        seconds = interleaved({str(size): run for size, run in runs.items()}, repeats)
        before = None
        for size in runs:
            now = seconds[str(size)]
            ratio = None if before is None else now / before
            reach = None if before is None else 2.4
            figures.append(Figure(f"cost.{axis}.{size}", now * 1e3, "ms", ratio, "half the size", reach, reach))
            before = now
    return figures


if __name__ == "__main__":
    main(benchmark)
