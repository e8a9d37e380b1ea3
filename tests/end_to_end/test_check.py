"""`metarisk portfolio check` on whole books of both warehouses: what it calls wrong is what a week refuses."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from metarisk import jobs
from metarisk.domain import DataError
from metarisk.jobs.portfolio_check import try_portfolio
from metarisk.portfolios import Finding
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, Project

JOINED = (
    "SELECT l.* FROM source.tiny_loans AS l JOIN (SELECT DISTINCT region FROM source.tiny_loans) AS r "
    "ON r.region = l.region WHERE l.opened_on <= $as_of"
)


def wrong(found: list[Finding]) -> list[str]:
    assert all(one.ok or one.remedy for one in found)
    return [one.what for one in found if not one.ok]


def test_a_good_book_is_told_what_its_label_gives(project: Project) -> None:
    before = sorted(project.settings.data_dir.rglob("*"))
    found = try_portfolio(project.context(CUT_OFF))
    assert sorted(project.settings.data_dir.rglob("*")) == before
    assert wrong(found) == []
    label = [one.what for one in found if one.about == "label"]
    known_on = pl.col("opened_on").dt.offset_by("12mo") + pl.duration(days=30)
    mature = tiny.book().filter(known_on <= CUT_OFF, pl.col("amount") >= 0)
    assert any(f"{mature.height:,} matured rows with" in what and "base rate" in what for what in label), label
    assert any("by year of opening: " in what for what in label)
    assert any("by fold: " in what for what in label)
    assert any("rows would be scored" in one.what for one in found)
    assert any("none of 4 tells the outcome" in one.what for one in found)


def test_what_is_wrong_is_what_the_week_refuses(make: Callable[..., Project]) -> None:
    """Every third region is missing, and a join drops its rows in silence."""
    known = [pl.when(pl.col("known_date") <= CUT_OFF).then(name).alias(name) for name in ("event_date", "known_date")]
    exits = pl.when(pl.col("exit_date") <= CUT_OFF).then("exit_date").alias("exit_date")
    region = pl.when(pl.int_range(pl.len()) % 3 > 0).then("region").alias("region")
    frame = tiny.book().with_columns(*known, exits, region)
    project = make(frame=frame, sql=JOINED)
    (what,) = wrong(try_portfolio(project.context(CUT_OFF)))
    assert "joins of tiny.sql drop" in what
    with pytest.raises(DataError) as caught:
        jobs.weekly(project.context(CUT_OFF))
    assert caught.value.what == what
    with pytest.raises(DataError) as caught:
        jobs.nightly(project.context(CUT_OFF))
    assert caught.value.what == what
    project.edit("sql/extracts/tiny.sql", "JOIN (", "LEFT JOIN (")
    assert wrong(try_portfolio(project.context(CUT_OFF))) == []


def test_a_suite_of_scores_that_cannot_be_judged_is_wrong(duckdb: Project) -> None:
    duckdb.edit("expectations/scores.json", '"column": "score"', '"column": "scores"')
    (what,) = wrong(try_portfolio(duckdb.context(CUT_OFF)))
    assert "there is no column 'scores' (did you mean 'score'?)" in what
