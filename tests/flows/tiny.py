"""A tiny portfolio as a project folder: about a thousand loans in four segments, known up to any date one asks for."""

from __future__ import annotations

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from metarisk.domain import Job
from metarisk.jobs import Context, Quiet, migrate
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse

REPOSITORY = Path(__file__).parents[2]
LOANS = 1_200
YEARS = 3

TOML = """
title = "Tiny loans"
risk = "credit"
timezone = "{timezone}"
candidates = ["pooled_logistic"]
catch_up = "{catch_up}"

[source]
extract = "{extract}.sql"
suite = "tiny.json"

[columns]
entity = "loan_id"
opened_on = "opened_on"
segments = ["region"]
event_date = "event_date"
known_date = "known_date"

[[targets]]
name = "pd_12m"
horizon_months = 12
reporting_lag_days = 30

[features.amount]
kind = "numeric"

[features.income]
kind = "numeric"

[learner]
name = "pooled_logistic"

[validation]
folds = 1
fold_months = 3
held_out = false
"""

SQL = """
SELECT loan_id, opened_on, region, amount, income,
    CASE WHEN known_date <= $as_of THEN event_date END AS event_date,
    CASE WHEN known_date <= $as_of THEN known_date END AS known_date
FROM source.{table}
WHERE opened_on <= $as_of
"""

SUITE = {
    "name": "tiny",
    "expectations": [
        {
            "type": "expect_column_values_to_not_be_null",
            "severity": "critical",
            "kwargs": {"column": "opened_on"},
        },
        {
            "type": "expect_column_values_to_be_between",
            "severity": "warning",
            "kwargs": {"column": "amount", "min_value": 0},
        },
    ],
}


def make_project(
    folder: Path,
    last: date,
    portfolios: tuple[str, ...] = ("tiny",),
    broken: tuple[str, ...] = (),
    timezone: str = "UTC",
    warehouse: str = "duckdb:///warehouse.duckdb",
    catch_up: str = "all",
) -> Settings:
    """A project whose loans were opened in the YEARS up to `last`; `broken` portfolios select from a missing table."""
    (folder / "portfolios").mkdir(parents=True)
    (folder / "expectations").mkdir()
    shutil.copytree(REPOSITORY / "sql", folder / "sql", ignore=shutil.ignore_patterns("extracts"))
    (folder / "sql" / "extracts").mkdir()
    shutil.copy(REPOSITORY / "expectations" / "scores.json", folder / "expectations")
    (folder / "expectations" / "tiny.json").write_text(json.dumps(SUITE))
    for name in (*portfolios, *broken):
        toml = TOML.format(extract=name, timezone=timezone, catch_up=catch_up)
        (folder / "portfolios" / f"{name}.toml").write_text(toml)
        table = "tiny_loans" if name in portfolios else "no_such_table"
        (folder / "sql" / "extracts" / f"{name}.sql").write_text(SQL.format(table=table))
    settings = Settings(project=folder, warehouse=SecretStr(warehouse), threads=1)
    database = open_warehouse(warehouse, settings.data_dir, threads=1, memory_mb=256)
    database.load("source.tiny_loans", _loans(last))
    migrate(Context(Job(portfolios[0], last), settings, Quiet()))
    return settings


def variables(settings: Settings) -> dict[str, str]:
    """The same settings as environment variables."""
    return {
        "METARISK_PROJECT": str(settings.project),
        "METARISK_WAREHOUSE": settings.warehouse.get_secret_value(),
        "METARISK_THREADS": "1",
        "METARISK_MEMORY_MB": "256",
    }


def _loans(last: date) -> pa.RecordBatchReader:
    rng = np.random.default_rng(7)
    opened = np.sort(rng.integers(0, 365 * YEARS, LOANS))
    region = rng.integers(0, 4, LOANS)
    amount = rng.lognormal(9, 0.5, LOANS)
    income = rng.lognormal(10, 0.4, LOANS)
    defaulted = rng.random(LOANS) < 1 / (1 + np.exp(1.5 - 0.4 * region - 0.5 * (np.log(amount) - np.log(income) + 1)))
    after = rng.integers(20, 360, LOANS)
    first = last - timedelta(days=365 * YEARS)

    def day(offset: int) -> date:
        return first + timedelta(days=int(offset))

    event = [day(o + a) if d else None for o, a, d in zip(opened, after, defaulted, strict=True)]
    table = pa.table(
        {
            "loan_id": [f"T{i:05d}" for i in range(LOANS)],
            "opened_on": [day(o) for o in opened],
            "region": [f"region {r}" for r in region],
            "amount": amount,
            "income": income,
            "event_date": pa.array(event, pa.date32()),
            "known_date": pa.array([d + timedelta(days=10) if d else None for d in event], pa.date32()),
        }
    )
    return table.to_reader()
