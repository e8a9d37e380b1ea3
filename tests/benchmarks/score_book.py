"""Scoring a book of 1 M loans with the default recipe, without and with reasons for the riskiest 1 %.

Beside it stands LightGBM's bare prediction of the same rows by the same trees, on as many threads: processor seconds on
one thread, wall seconds on two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl

from metarisk import training
from metarisk.adapt import adapt
from metarisk.bases import tree_threads
from metarisk.domain import Feature, Portfolio
from metarisk.scoring import reasons_cut, score
from tests.benchmarks.harness import Figure, interleaved, main
from tests.unit import loan_examples as loans

BATCH_ROWS = 131_072
FEATURES = 20


def benchmark(quick: bool) -> Sequence[Figure]:
    """Seconds, and ratios to the bare prediction."""
    rows = 100_000 if quick else 1_000_000
    portfolio = _portfolio()
    teach = _wide(loans.book(30_000, seed=1))
    adapted = adapt(
        loans.fitted("hazard_head", teach, portfolio),
        "model",
        training.teaching_rows(teach.lazy(), portfolio, loans.SPEC, loans.AS_OF),
        portfolio,
        loans.SPEC,
    )
    book = _wide(loans.book(50_000, seed=2))
    many = pl.concat([book] * (rows // book.height))
    link = adapted.score(book, portfolio)[0]
    cut = reasons_cut(lambda: [link], 0.01)
    (trees,) = (base.full.relative for base in adapted.model.bases if base.kind == "lightgbm_hazard")
    raw = trees.encoder.raw(many)

    def scored(reasons_from: float, threads: int) -> float:
        with tree_threads(threads):
            about = {"run_id": "run", "as_of": loans.AS_OF, "reasons_from": reasons_from}
            return sum(frame.height for frame in score(_batches(many), adapted, portfolio, **about))

    figures, millions = [], rows / 1e6
    for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        runs = {
            "score": partial(scored, math.inf, threads),
            "reasons": partial(scored, cut, threads),
            "trees": partial(trees.booster.predict, raw, raw_score=True, num_threads=threads),
        }
        seconds = interleaved(runs, 2, clock)
        bare = f"bare LightGBM prediction on {threads} threads"
        for name, reach, aim, limit, best in (("score", 1.5, 1.2, 10.0, 5.0), ("reasons", 2.5, 2.0, 20.0, 10.0)):
            of, took = f"score_book.{name}.threads_{threads}", seconds[name]
            figures.append(Figure(of, took, "s", took / seconds["trees"], bare, reach, aim))
            figures.append(Figure(f"{of}.million", took / millions, "s a million rows", None, "", limit, best))
    return figures


def _portfolio() -> Portfolio:
    features = dict(loans.PORTFOLIO.features) | {f"x{i}": Feature("numeric") for i in range(FEATURES - 4)}
    return replace(loans.PORTFOLIO, features=features)


def _wide(frame: pl.DataFrame) -> pl.DataFrame:
    r = np.random.default_rng(frame.height)
    return frame.with_columns(pl.Series(f"x{i}", r.normal(size=frame.height)) for i in range(FEATURES - 4))


def _batches(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for start in range(0, frame.height, BATCH_ROWS):
        yield frame[start : start + BATCH_ROWS]


if __name__ == "__main__":
    main(benchmark)
