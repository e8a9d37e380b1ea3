"""A night's adaptation of 5,000 segments by the default recipe: out-of-fold base scores of the support, head, level."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import polars as pl

from metarisk import training
from metarisk.adapt import LEVEL_RULES, adapt, level
from metarisk.bases import tree_threads
from tests.benchmarks.harness import Figure, interleaved, main
from tests.unit import loan_examples as loans

PRODUCTS = 50


def benchmark(quick: bool) -> Sequence[Figure]:
    """Processor seconds on one thread, wall seconds on two."""
    segments, rows = (500, 30_000) if quick else (5_000, 300_000)
    model = loans.fitted("hazard_head", loans.book(30_000, seed=1))
    r = np.random.default_rng(0)
    book = loans.book(rows, seed=2).with_columns(
        region=pl.Series(r.integers(0, segments // PRODUCTS, rows)).cast(pl.String),
        product=pl.Series(r.integers(0, PRODUCTS, rows)).cast(pl.String),
    )
    support = training.teaching_rows(book.lazy(), loans.PORTFOLIO, loans.SPEC, loans.AS_OF)

    def night() -> None:
        adapted = adapt(model, "model", support, loans.PORTFOLIO, loans.SPEC)
        level(adapted, support, loans.PORTFOLIO, LEVEL_RULES[-1])

    found = []
    for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        with tree_threads(threads):
            seconds = interleaved({"adapt": night}, 2, clock)["adapt"]
        name = f"adapt_book.segments_{segments}.rows_{support.height}.threads_{threads}"
        found.append(Figure(name, seconds, "s", None, "", *((None, None) if quick else (2.0, 1.0))))
    return found


if __name__ == "__main__":
    main(benchmark)
