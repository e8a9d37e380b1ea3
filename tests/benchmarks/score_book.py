"""Scoring a book of 1 M loans with the default recipe, without and with reasons for the riskiest 1 %.

Beside it stands LightGBM's bare prediction of the same rows by the same trees, on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from metarisk import training
from metarisk.adapt import adapt
from metarisk.domain import Feature, Portfolio
from metarisk.scoring import reasons_cut, score
from tests.benchmarks.harness import Figure, interleaved, main
from tests.unit import loan_examples as loans

BATCH_ROWS = 131_072
FEATURES = 20


def benchmark(quick: bool) -> Sequence[Figure]:
    """Processor seconds of one thread."""
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
    cut = reasons_cut(adapted.score(book, portfolio)[0], 0.01)
    (trees,) = (base.full.relative for base in adapted.model.bases if base.kind == "lightgbm_hazard")
    raw = trees.encoder.raw(many)

    def scored(reasons_from: float) -> float:
        frames = score(_batches(many), adapted, portfolio, run_id="run", as_of=loans.AS_OF, reasons_from=reasons_from)
        return sum(frame.height for frame in frames)

    runs = {
        "score": lambda: scored(math.inf),
        "reasons": lambda: scored(cut),
        "trees": lambda: trees.booster.predict(raw, raw_score=True, num_threads=1),
    }
    seconds = interleaved(runs, 2)
    millions, bare = rows / 1e6, "bare LightGBM prediction"
    return [
        Figure("score_book", seconds["score"], "s", seconds["score"] / seconds["trees"], bare, 1.5, 1.2),
        Figure("score_book.million", seconds["score"] / millions, "s a million rows", None, "", 10.0, 5.0),
        Figure("score_book.reasons", seconds["reasons"], "s", seconds["reasons"] / seconds["trees"], bare, 2.5, 2.0),
        Figure("score_book.reasons.million", seconds["reasons"] / millions, "s a million rows", None, "", 20.0, 10.0),
    ]


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
