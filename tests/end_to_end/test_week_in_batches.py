"""A week of a book that comes in small batches: the same model and evidence, and never the whole population at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metarisk import jobs
from metarisk.drift import histograms
from metarisk.job import population as populations
from metarisk.jobs import Context, direct
from metarisk.tasks import population
from tests.end_to_end import tiny
from tests.end_to_end.tiny import Project

EARLIER, LATER = date(2026, 7, 19), date(2026, 7, 26)
MOST_TAUGHT = 400


def test_batches_change_no_bit_and_nothing_holds_the_population(
    duckdb: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week that may learn from few rows and has many more to score, beside the champion of a week before."""
    book = tiny.book(6_000)
    duckdb.load(book)
    rule = f'exit_date = "exit_date"\nprotected = ["channel"]\n[thresholds]\nmax_training_rows = {MOST_TAUGHT}'
    duckdb.edit("portfolios/tiny.toml", 'exit_date = "exit_date"', rule)
    duckdb.edit("portfolios/tiny.toml", '[features.channel]\nkind = "categorical"\n', "")
    duckdb.weekly(EARLIER)  # a champion that reads other features is not compared
    other = tiny.copy(duckdb, tmp_path / "other")
    whole = duckdb.weekly(LATER)

    for module in (populations, histograms):
        monkeypatch.setattr(module, "BATCH_ROWS", 50)
    heights: list[int] = []
    collect = pl.LazyFrame.collect

    def measured(frame: pl.LazyFrame, *args: Any, **options: Any) -> Any:
        rows = collect(frame, *args, **options)
        # What is more than a sample of some columns.
        if {"loan_id", "amount"} <= {*rows.columns}:
            heights.append(rows.height)
        return rows

    def call(step: Callable[..., Any], context: Context, *inputs: Any) -> Any:
        with monkeypatch.context() as patched:
            if step.__name__ == "train":
                patched.setattr(pl.LazyFrame, "collect", measured)
            return direct(step, context, *inputs)

    context = other.context(LATER)
    parts = jobs.weekly(context, call)
    assert parts.model_id == whole.model_id
    assert tiny.differences(other.contents(), duckdb.contents()) == []
    found = duckdb.warehouse.rows("SELECT DISTINCT protocol FROM metarisk.evidence WHERE as_of = $day", {"day": LATER})
    assert {"reasons", "swap_set", "grade_migration", "fairness"} <= {row["protocol"] for row in found}
    scored_rows = population(book.lazy(), context.portfolio, LATER).collect().height
    assert max(heights) <= 1.25 * MOST_TAUGHT < scored_rows / 2
