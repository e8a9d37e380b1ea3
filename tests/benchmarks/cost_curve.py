"""How cost grows, of a MAML step and of a night's kernels: each doubling of a size should cost at most twice as much.

A step grows with tasks, support rows and inner steps. Adapting by gradient steps, the MAP head and scoring grow
with rows (the same segments) and with segments (the same rows each), fixed cost included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from metarisk.learners.heads.map_network import MapNetwork
from tests.benchmarks import map_head, segments
from tests.benchmarks.harness import Figure, interleaved, main
from tests.benchmarks.maml_step import ours

REACH = 2.4
"""Twice, and what caches and a shared machine add."""


def curve(name: str, runs: Mapping[int, Callable[[], object]], repeats: int) -> Iterator[Figure]:
    """Milliseconds of each size, with the ratio to the size before, which is half of it."""
    seconds = interleaved({str(size): run for size, run in runs.items()}, repeats)
    before = None
    for size in runs:
        now = seconds[str(size)]
        ratio, reach = (None, None) if before is None else (now / before, REACH)
        yield Figure(f"cost.{name}.{size}", now * 1e3, "ms", ratio, "half the size", reach, reach)
        before = now


def of_a_night(count: int, rows: int) -> Mapping[str, Callable[[], object]]:
    """What is done for `rows` rows of `count` segments, by name."""
    book, learner, given, head = segments.book(count, rows), segments.learner(), segments.state(), MapNetwork()
    adaptation, start = learner.adapt(given, segments.book(count, 20 * count), "bernoulli"), map_head.state(head)
    return {
        "adapt_segments": lambda: learner.adapt(given, book, "bernoulli"),
        "score_rows": lambda: learner.predict(given, adaptation, book, "bernoulli"),
        "map_head": lambda: head.adapt(start, book, "bernoulli"),
    }


def benchmark(quick: bool) -> Sequence[Figure]:
    """Along each axis from the smallest size to eight times that; quick: to four times."""
    repeats, doublings = (5, 3) if quick else (25, 4)
    sizes = [2**power for power in range(doublings)]
    figures = [
        *curve("tasks", {16 * size: ours(tasks=16 * size) for size in sizes}, repeats),
        *curve("support_rows", {64 * size: ours(support=64 * size) for size in sizes}, repeats),
        *curve("steps", {2 * size: ours(steps=2 * size) for size in sizes}, repeats),
    ]
    for axis, small in (("rows", (200, 13_400)), ("segments", (100, 13_400))):
        made = {size: of_a_night(small[0] * (size if axis == "segments" else 1), small[1] * size) for size in sizes}
        unit = small[1] if axis == "rows" else small[0]
        for name in next(iter(made.values())):
            runs = {unit * size: kernels[name] for size, kernels in made.items()}
            figures += curve(f"{name}.{axis}", runs, max(3, repeats // 3))
    return figures


if __name__ == "__main__":
    main(benchmark)
