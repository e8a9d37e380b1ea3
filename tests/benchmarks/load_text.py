"""`metarisk load` of 1 M rows of 20 columns of text, against what DuckDB reads into a table by itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from metarisk.loading import Limits, Options, open_table
from metarisk.warehouse import open_warehouse
from tests.benchmarks.harness import Figure, interleaved, main

THREADS, MEMORY_MB = 2, 1024


def table(rows: int) -> pl.DataFrame:
    """Amounts, counts, rates, days, keys, categories with empty cells, times and flags of a book; seed 0."""
    dice = np.random.default_rng(0)
    first = np.datetime64("2015-01-01")
    columns: dict[str, object] = {"id": [f"L{number:08}" for number in range(rows)]}
    columns |= {f"amount_{n}": np.round(np.exp(dice.normal(8, 1, rows)), 2) for n in range(4)}
    columns |= {f"count_{n}": dice.integers(0, 100_000, rows) for n in range(4)}
    columns |= {f"rate_{n}": dice.uniform(0, 1, rows) for n in range(3)}
    columns |= {f"day_{n}": first + dice.integers(0, 4_000, rows) for n in range(3)}
    names = np.array(["north", "south", "east", "west", None], dtype=object)
    columns |= {f"category_{n}": names[dice.integers(0, 5, rows)].tolist() for n in range(3)}
    columns["at"] = (first.astype("datetime64[s]") + dice.integers(0, 300_000_000, rows)).astype("datetime64[ms]")
    columns["flag"] = dice.integers(0, 2, rows) == 1
    return pl.DataFrame(columns)


def benchmark(quick: bool) -> Sequence[Figure]:
    """Processor seconds of both, from the file to the table."""
    rows = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table(rows).write_csv(folder / "book.csv")

        def guessed() -> None:
            (folder / "guessed.duckdb").unlink(missing_ok=True)
            with duckdb.connect(folder / "guessed.duckdb", config={"threads": THREADS}) as connection:
                connection.execute(
                    "CREATE TABLE book AS FROM read_csv($file, sample_size = -1)", {"file": str(folder / "book.csv")}
                )

        def loaded() -> None:
            shutil.rmtree(folder / "warehouse", ignore_errors=True)
            warehouse = open_warehouse(
                "duckdb:///warehouse.duckdb", folder / "warehouse", threads=THREADS, memory_mb=MEMORY_MB
            )
            limits = Limits(THREADS, MEMORY_MB, folder / "scratch")
            with open_table([str(folder / "book.csv")], Options(), limits) as found:
                assert warehouse.load("book", found.reader(), mode="create") == rows

        seconds = interleaved({"guessed": guessed, "loaded": loaded}, 2)
    ratio = seconds["loaded"] / seconds["guessed"]
    return [Figure("load_text", seconds["loaded"], "s", ratio, "DuckDB's read_csv", 2.0, 1.5)]


if __name__ == "__main__":
    main(benchmark)
