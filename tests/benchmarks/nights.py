"""Whether a night stays as cheap as the first: seconds of publish, and of the snapshot in it, after 1 and 400 nights.

One night is real. Of 400 more, all that a run leaves in the warehouse is copied from it in SQL, under other dates and
run ids; then the next nights are real again. Nights of the young and of the old warehouse take turns, and the fastest
of each counts: seconds are of the wall, for PostgreSQL works in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import polars as pl

from metarisk import jobs
from metarisk.domain import Transaction
from metarisk.jobs import Context, direct
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.benchmarks.harness import Figure, main
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, Project
from tests.warehouses import server

Result = TypeVar("Result")
NIGHTS = 400
REACH = 1.3
_TABLES = """
SELECT c.table_name AS name, c.column_name AS text, c.data_type AS type FROM information_schema.columns AS c
JOIN information_schema.tables AS t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
WHERE c.table_schema = 'metarisk' AND t.table_type = 'BASE TABLE' AND c.table_name NOT LIKE 'risk_score_%'
ORDER BY c.table_name, c.ordinal_position
"""
_NIGHTLY = (
    "adaptation", "attempt_start", "drift_metric", "event_log", "measure", "publication", "quality_result",
    "risk_score", "run", "run_attempt", "score_move_part",
)  # fmt: skip


def benchmark(quick: bool) -> Sequence[Figure]:
    """Figures of both warehouses."""
    rows, repeats = (4_000, 3) if quick else (20_000, 7)
    figures: list[Figure] = []
    for name in ("duckdb", "postgresql"):
        with tempfile.TemporaryDirectory() as folder, _pair(Path(folder), name, rows) as (young, old):
            _load_nights(old)
            old.warehouse.snapshot()
            seconds = _interleaved({1: young, NIGHTS: old}, repeats)
        for step in seconds[1]:
            after = f"nights.{name}.{step}.after_"
            first, late = seconds[1][step], seconds[NIGHTS][step]
            figures += [
                Figure(f"{after}1", first, "s"),
                Figure(f"{after}{NIGHTS}", late, "s", late / first, "after 1", REACH if step != "night" else None),
            ]
    return figures


@contextmanager
def _pair(folder: Path, name: str, rows: int) -> Iterator[tuple[Project, Project]]:
    """Two projects with the same champion and the same one night, each with a warehouse of its own."""
    if name == "duckdb":
        young = _begun(folder / "young", "duckdb:///warehouse.duckdb", rows)
        yield young, tiny.copy(young, folder / "old")
        return
    with server() as postgresql:
        template = postgresql.create_database()
        young = _begun(folder / "young", postgresql.url(template), rows)
        yield young, tiny.copy(young, folder / "old", postgresql.url(postgresql.create_database(template)))


def _begun(folder: Path, url: str, rows: int) -> Project:
    """The tiny book with more loans, cut into segments of a hundred, after a week and a night."""
    parts = rows // 600
    book = tiny.book(rows).with_columns(pl.col("region") + "-" + (pl.int_range(pl.len()) % parts).cast(pl.String))
    project = tiny.make(folder, url, book)
    project.weekly()
    project.nightly(FIRST)
    return project


def _load_nights(project: Project) -> None:
    """Copy the one night to the NIGHTS days before it, table by table, as if each had been published then."""
    columns: dict[str, dict[str, str]] = {}
    for row in project.warehouse.rows(_TABLES):
        columns.setdefault(row["name"], {})[row["text"]] = row["type"]
    with project.warehouse.transaction() as transaction:
        if project.warehouse.dialect == "postgresql":
            months = {(FIRST - timedelta(days=back)).replace(day=1) for back in range(NIGHTS + 1)}
            for month in sorted(months):
                sql = "SELECT 1 AS made FROM (SELECT metarisk.make_partition('metarisk.risk_score', $month)) AS p"
                transaction.rows(sql, {"month": month})
        for name in _NIGHTLY:
            _copy(transaction, name, columns[name])


def _copy(transaction: Transaction, name: str, columns: dict[str, str]) -> None:
    changed = {
        "run_id": "run_id || '-' || back",
        "before_run_id": "before_run_id || '-' || back",
        "attempt_id": "attempt_id || '-' || back",
        "as_of": "as_of - CAST(back AS INTEGER)",
        "before_as_of": "before_as_of - CAST(back AS INTEGER)",
        "published_at": "published_at - back * INTERVAL '1 day'",
    }
    if name == "event_log":
        # Numbers go on after the real ones; hashes are of no account here.
        changed = {"seq": "seq + 1000 + back", "hash": "hash || back", "prev_hash": "prev_hash || back"}
    picked = ", ".join(changed.get(column, column) for column in columns)
    where = "WHERE kind = 'publication'" if name == "event_log" else ""
    transaction.execute(
        f"INSERT INTO metarisk.{name} ({', '.join(columns)}) SELECT {picked} FROM metarisk.{name} "
        f"CROSS JOIN generate_series(1, {NIGHTS}) AS days(back) {where}"
    )


def _interleaved(projects: dict[int, Project], repeats: int) -> dict[int, dict[str, float]]:
    """Of each project: the fastest publish, snapshot and whole night of `repeats` nights that follow."""
    found: dict[int, list[dict[str, float]]] = {number: [] for number in projects}
    for ahead in range(1, 1 + repeats):
        for number, project in projects.items():
            found[number].append(_night(project, ahead))
    return {
        number: {step: min(night[step] for night in nights) for step in nights[0]} for number, nights in found.items()
    }


def _night(project: Project, ahead: int) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[..., Result], *inputs: Any) -> Result:
        begun = time.perf_counter()
        done = work(*inputs)
        seconds[name] = time.perf_counter() - begun
        return done

    def measured(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ != "publish":
            return direct(step, context, *inputs)
        return timed("publish", direct, step, context, *inputs)

    build = DuckDBWarehouse.snapshot
    with patch.object(DuckDBWarehouse, "snapshot", lambda warehouse: timed("snapshot", build, warehouse)):
        timed("night", jobs.nightly, project.context(FIRST + timedelta(days=ahead)), measured)
    return seconds


if __name__ == "__main__":
    main(benchmark)
