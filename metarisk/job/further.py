"""Further extracts of a portfolio that only its risk type reads: positions, losses, verdicts. Small tables, whole."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from metarisk import lake
from metarisk.domain import DataError
from metarisk.job.context import Context
from metarisk.portfolios import also_sql

ALSO = "also"
"""In the manifest of an adaptation: SHA-256 of each further extract by name, as JSON; not there where there is none."""


def read_further(context: Context) -> dict[str, str]:
    """Read every further extract into the lake, its rows in sorted order; SHA-256 of each file by name."""
    found = {}
    for name, sql in also_sql(context.settings.project, context.portfolio).items():
        with context.warehouse.stream(sql, {"as_of": context.job.as_of}) as reader:
            frame = pl.DataFrame(reader.read_all())
        folder = context.folder / ALSO
        with lake.scratch(folder.parent) as private:
            file = private / "side.parquet"
            frame.sort(frame.columns, nulls_last=True).write_parquet(file)
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            folder.mkdir(parents=True, exist_ok=True)
            file.replace(_file(context, name, found[name]))
    return found


def further_tables(context: Context, run_folder: Path) -> Mapping[str, pl.LazyFrame]:
    """The further extracts of a run by name. Raises DataError where one is not the file that the run began with."""
    sums: dict[str, str] = json.loads(lake.read_manifest(run_folder / "adapt").get(ALSO, "{}"))
    for name, expected in sums.items():
        file = _file(context, name, expected)
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise DataError(
                f"the further extract {name} of this night is missing or damaged in the lake",
                portfolio=context.job.portfolio,
                on=context.job.as_of,
                remedy="restore the lake's folder of that date, or publish the night again with --restate",
            )
    return {name: pl.scan_parquet(_file(context, name, expected)) for name, expected in sums.items()}


def _file(context: Context, name: str, digest: str) -> Path:
    return context.folder / ALSO / f"{name}-{digest[:16]}.parquet"
