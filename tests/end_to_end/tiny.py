"""A tiny project in a folder, on either warehouse: one portfolio, some hundred loans, and what its tables hold.

The book has segments of every status: large ones, a thin one, and one too young to have matured labels.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import SecretStr

from metarisk import jobs
from metarisk.domain import Job, Mode, Reporter, Warehouse
from metarisk.jobs import Context, Quiet
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse

REPOSITORY = Path(__file__).parents[2]
CUT_OFF, FIRST, SECOND = date(2026, 6, 28), date(2026, 6, 29), date(2026, 6, 30)
NAME = "tiny"
TABLE = "source.tiny_loans"
SEGMENTS = {
    ("north", "auto"): 0.34,
    ("north", "cash"): 0.24,
    ("south", "auto"): 0.20,
    ("south", "cash"): 0.14,
    ("east", "auto"): 0.04,
    ("west", "cash"): 0.04,
}
YOUNG = ("west", "cash")
"""Opened in the last months only."""

TOML = """
title = "Tiny loans"
risk = "credit"
timezone = "UTC"
candidates = ["pooled_logistic", "map_head"]

[source]
extract = "tiny.sql"
suite = "tiny.json"

[columns]
entity = "loan_id"
opened_on = "opened_on"
segments = ["region", "product"]
event_date = "event_date"
known_date = "known_date"
exit_date = "exit_date"

[[targets]]
name = "pd_12m"
horizon_months = 12
reporting_lag_days = 30

[features.amount]
kind = "numeric"

[features.income]
kind = "numeric"

[features.channel]
kind = "categorical"

[features.first_credit_on]
kind = "date-age"

[validation]
folds = 1
fold_months = 4
held_out = false
"""

CAREFUL = f"""
SELECT loan_id, opened_on, region, product, amount, income, channel, first_credit_on,
    CASE WHEN known_date <= $as_of THEN event_date END AS event_date,
    CASE WHEN known_date <= $as_of THEN known_date END AS known_date,
    CASE WHEN exit_date <= $as_of THEN exit_date END AS exit_date
FROM {TABLE}
WHERE opened_on <= $as_of
"""
EVERYTHING = f"SELECT * FROM {TABLE} WHERE $as_of IS NOT NULL"
"""What a careless author writes: outcomes and loans of the future come along."""

SUITE: dict[str, Any] = {
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
            "meta": {"quarantine": True},
        },
    ],
}


def book(rows: int = 700, last: date = date(2026, 7, 31)) -> pl.DataFrame:
    """Loans opened in the three years up to `last`, with what will ever become of them; three have a wrong amount."""
    rng = np.random.default_rng(11)
    segments = list(SEGMENTS)
    which = rng.choice(len(segments), rows, p=list(SEGMENTS.values()))
    young = which == segments.index(YOUNG)
    age = np.where(young, rng.integers(40, 250, rows), rng.integers(0, 365 * 3, rows))
    amount, income = rng.lognormal(9, 0.5, rows), rng.lognormal(10, 0.4, rows)
    risk = 0.5 * which - 2.0 + 1.2 * (np.log(amount) - np.log(income) + 1)
    defaults = rng.random(rows) < 1 / (1 + np.exp(-risk))
    repaid = ~defaults & (rng.random(rows) < 0.2)
    after = rng.integers(20, 400, rows)
    amount[[5, 50, 500]] *= -1
    frame = pl.DataFrame(
        {
            "loan_id": [f"T{i:05d}" for i in range(rows)],
            "opened_on": [last - timedelta(days=int(days)) for days in age],
            "region": [segments[i][0] for i in which],
            "product": [segments[i][1] for i in which],
            "amount": amount,
            "income": income,
            "channel": rng.choice(["web", "branch", "broker"], rows).tolist(),
            "first_credit_on": [last - timedelta(days=int(days)) for days in rng.integers(1500, 9000, rows)],
            "after": after,
            "defaults": defaults,
            "repaid": repaid,
        }
    )
    end = pl.col("opened_on") + pl.duration(days=pl.col("after"))
    return frame.select(
        pl.exclude("after", "defaults", "repaid"),
        event_date=pl.when("defaults").then(end),
        known_date=pl.when("defaults").then(end + pl.duration(days=12)),
        exit_date=pl.when("repaid").then(end),
    )


@dataclass(frozen=True)
class Project:
    """A project folder with its warehouse."""

    settings: Settings

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse, opened anew."""
        url = self.settings.warehouse.get_secret_value()
        return open_warehouse(url, self.settings.data_dir, threads=1, memory_mb=256)

    def load(self, frame: pl.DataFrame) -> None:
        """Make `frame` the source."""
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        self.warehouse.load(TABLE, table.to_reader())

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file of the project, which must hold it."""
        path = self.settings.project / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def context(
        self, as_of: date, mode: Mode = "nightly", reason: str = "", reporter: Reporter | None = None
    ) -> Context:
        """A job of the tiny portfolio; its clock stands still, so that times can be compared."""
        return Context(Job(NAME, as_of, mode, reason), self.settings, reporter or Quiet(), clock=noon)

    def weekly(self, as_of: date = CUT_OFF) -> jobs.WeekResult:
        """Run one week."""
        return jobs.weekly(self.context(as_of))

    def nightly(self, as_of: date = FIRST, mode: Mode = "nightly", reason: str = "") -> jobs.NightResult:
        """Run one night."""
        return jobs.nightly(self.context(as_of, mode, reason))

    def scores(self, as_of: date = FIRST) -> pl.DataFrame:
        """Current scores of a night, without ids, in the order of entities."""
        rows = self.warehouse.rows(
            "SELECT entity, segment, status, score, score_low, score_high FROM metarisk.score_history "
            "WHERE as_of = $as_of ORDER BY entity",
            {"as_of": as_of},
        )
        return pl.DataFrame(rows, infer_schema_length=None)

    def count(self, table: str) -> int:
        """Rows of a table of schema metarisk."""
        found: int = self.warehouse.rows(f"SELECT count(*) AS n FROM metarisk.{table}")[0]["n"]
        return found

    def contents(self) -> dict[str, list[str]]:
        """Every row of every table that a run writes, in sorted order; attempts tell of tries, so they are left out."""
        tables = self.warehouse.rows(
            "SELECT table_name AS name FROM information_schema.tables "
            "WHERE table_schema = 'metarisk' AND table_type = 'BASE TABLE'"
        )
        own = {row["name"] for row in tables if not row["name"].startswith("risk_score_")}
        return {
            name: sorted(_readable(row) for row in self.warehouse.rows(f"SELECT * FROM metarisk.{name}"))
            for name in sorted(own - {"attempt_start", "run_attempt", "schema_migration", "view_set"})
        }


def _readable(row: Mapping[str, Any]) -> str:
    """A row as text; where the project lies and which attempt it was do not count."""
    kept = {name: value for name, value in sorted(row.items()) if name != "attempt_id"}
    return re.sub(r"'/[^']*(?=/var/lake/)", "'PROJECT", repr(kept))


def differences(found: Mapping[str, Sequence[str]], expected: Mapping[str, Sequence[str]]) -> list[str]:
    """Rows that one of two `contents` has and the other has not."""
    lines = []
    for table in sorted({*found, *expected}):
        here, there = Counter(found.get(table, ())), Counter(expected.get(table, ()))
        lines += [f"{table}: only found {row}" for row in (here - there).elements()]
        lines += [f"{table}: only expected {row}" for row in (there - here).elements()]
    return lines


class Listener(Quiet):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keep one."""
        self.warnings.append(message)


def noon() -> datetime:
    """A clock that stands still."""
    return datetime(2026, 8, 1, 12, tzinfo=UTC)


def make(
    folder: Path,
    warehouse: str = "duckdb:///warehouse.duckdb",
    frame: pl.DataFrame | None = None,
    *,
    toml: str = TOML,
    sql: str = CAREFUL,
    rules: Sequence[Mapping[str, Any]] = (),
) -> Project:
    """A project with its source loaded; `rules` are added to the suite. Nothing has run yet."""
    for sub in ("portfolios", "expectations", "sql/extracts"):
        (folder / sub).mkdir(parents=True)
    for sub in ("migrations", "views", "dictionary"):
        shutil.copytree(REPOSITORY / "sql" / sub, folder / "sql" / sub)
    shutil.copy(REPOSITORY / "expectations" / "scores.json", folder / "expectations")
    (folder / "portfolios" / "tiny.toml").write_text(toml)
    write_rules(folder, sql, rules)
    project = of(folder, warehouse)
    project.load(book() if frame is None else frame)
    jobs.migrate(project.context(FIRST))
    return project


def of(folder: Path, warehouse: str = "duckdb:///warehouse.duckdb") -> Project:
    """The project of a folder."""
    return Project(Settings(project=folder, warehouse=SecretStr(warehouse), threads=1, memory_mb=256))


def write_rules(folder: Path, sql: str, rules: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write extract SQL and suite into a project folder; `rules` are added to the suite."""
    suite = SUITE | {"expectations": [*SUITE["expectations"], *rules]}
    (folder / "expectations" / "tiny.json").write_text(json.dumps(suite))
    (folder / "sql" / "extracts" / "tiny.sql").write_text(sql)


def copy(project: Project, folder: Path, warehouse: str | None = None) -> Project:
    """A project in another folder; its database is copied with it (DuckDB) or is another one, named by its URL."""
    shutil.copytree(project.settings.project, folder, ignore=shutil.ignore_patterns("*-locks"))
    url = project.settings.warehouse if warehouse is None else SecretStr(warehouse)
    return replace(project, settings=project.settings.model_copy(update={"project": folder, "warehouse": url}))
