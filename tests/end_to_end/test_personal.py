"""What is personal stays in the source and in the lake: nobody is told of it, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from metarisk import jobs
from metarisk.domain import DataError, QualityError
from metarisk.jobs import Quiet
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, SECOND, Project

DOMAIN = "@mail.example"
RULE = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "email", "value_set": ["nobody"]}}
DATABASES = {".duckdb", ".wal"}
"""Looked into by their tables: the source is in one of them."""


@dataclass
class Told(Quiet):
    """A reporter that remembers all that it is told."""

    said: list[str] = field(default_factory=list)

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        self.said.append(note)

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        self.said += [title, *map(str, rows)]

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        self.said.append(str(about))

    def warn(self, message: str) -> None:
        self.said.append(message)


def written(project: Project) -> Iterator[tuple[str, str]]:
    """Name and text of all that a run wrote but the rows of the lake."""
    data = project.settings.data_dir
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        of_rows = path.suffix == ".parquet" and "lake" in path.parts
        if not of_rows and path.suffix not in DATABASES:
            # Parquet is compressed.
            text = str(pl.read_parquet(path).to_dicts()) if path.suffix == ".parquet" else ""
            yield str(path.relative_to(data)), text + path.read_bytes().decode("utf-8", "replace")
    yield from ((table, "\n".join(rows)) for table, rows in project.contents().items())
    yield "attempts", str(project.warehouse.rows("SELECT * FROM metarisk.run_attempt"))


def test_personal_columns_reach_the_lake_and_nothing_else(duckdb: Project) -> None:
    duckdb.load(tiny.book().with_columns(email=pl.col("loan_id") + DOMAIN))
    duckdb.edit("portfolios/tiny.toml", "[[targets]]", 'personal = ["email"]\n\n[[targets]]')
    folder, told = duckdb.settings.project, Told()
    # some rows fail a rule on the column and are set aside, then all of them stop a night
    some = RULE | {"type": "expect_column_values_to_not_be_in_set", "kwargs": {"column": "email"}}
    some["kwargs"] |= {"value_set": [f"T{number:05}{DOMAIN}" for number in range(40)]}
    tiny.write_rules(folder, tiny.EVERYTHING, [some | {"severity": "warning", "meta": {"quarantine": True}}])
    assert jobs.nightly(duckdb.context(FIRST, reporter=told)).outcome == "published"
    week = jobs.weekly(duckdb.context(FIRST, reporter=told))
    observed = RULE | {"type": "expect_column_distinct_values_to_be_in_set", "severity": "warning"}
    rules = [RULE | {"severity": "critical"}, observed]
    tiny.write_rules(folder, tiny.EVERYTHING, rules)
    caught = []
    for job in (jobs.nightly, jobs.weekly):
        with pytest.raises(QualityError, match="email") as stopped:
            job(duckdb.context(SECOND, reporter=told))
        caught.append(str(stopped.value))
    lake = pl.read_parquet(duckdb.settings.data_dir / "lake" / "*" / str(FIRST) / "*" / "extract" / "*.parquet")
    assert lake["email"].str.ends_with(DOMAIN).all()
    assert DOMAIN not in "\n".join([*caught, *told.said])
    assert "email" in "\n".join(told.said)
    texts = dict(written(duckdb))
    assert [name for name, text in texts.items() if DOMAIN in text] == []
    assert {path.split("/")[0] for path in texts} >= {"lake", "registry", "reports", "quality_result", "event_log"}
    # also of a week: its page, its model's card, and what nights compare their histograms with
    cards = [f"reports/tiny/model-{week.model_id}.{kind}" for kind in ("html", "md")]
    references = [f"registry/tiny/{week.model_id}/reference{part}.parquet" for part in ("", ".labels", ".sample")]
    assert {*cards, *references} <= texts.keys()
    assert any(path.startswith(f"reports/tiny/week-{FIRST}-") for path in texts)


def test_a_personal_value_that_the_warehouse_quotes_is_struck_out(project: Project) -> None:
    project.load(tiny.book().with_columns(email=pl.lit("o'neil") + pl.col("loan_id") + DOMAIN))
    project.edit("portfolios/tiny.toml", "[[targets]]", 'personal = ["email"]\n\n[[targets]]')
    wrong = tiny.CAREFUL.replace("SELECT loan_id,", "SELECT loan_id, CAST(email AS INTEGER) AS email,")
    tiny.write_rules(project.settings.project, wrong)
    told = Told()
    with pytest.raises(
        DataError, match=r"tiny, as of .*: tiny\.sql: .* refuses the data .*\*\*\*.* Remedy: "
    ) as caught:
        jobs.nightly(project.context(FIRST, reporter=told))
    assert DOMAIN not in "\n".join([str(caught.value), *told.said])
    assert [name for name, text in written(project) if DOMAIN in text] == []
