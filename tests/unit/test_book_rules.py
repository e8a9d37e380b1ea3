"""Rules of every book: each line of the table of findings, what it says and what happens to the rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from metarisk import lake, quality
from metarisk.domain import Portfolio, QualityError
from metarisk.quality import FINDINGS
from tests.unit.lake_examples import AS_OF, PORTFOLIO, good
from tests.unit.test_quality import ROOT, rule, suite

pytestmark = pytest.mark.xdist_group("great_expectations")
ROWS = 400
OPENED, EVENT, KNOWN = date(2024, 1, 1), date(2024, 3, 1), date(2024, 3, 20)
AMOUNTS = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, lgd="share", ead="drawn", exposure="hours"))


def judged(folder: Path, portfolio: Portfolio = PORTFOLIO, **columns: list[object]) -> quality.Quality:
    """A book of 400 good rows, a tenth of which have an event, with some columns of the first rows replaced."""
    base = {
        name: values.to_pylist() if isinstance(values, pa.Array) else list(values)
        for name, values in good(ROWS).items()
    }
    base |= {"opened": [OPENED] * ROWS, "event": [EVENT] * 40 + [None] * 360, "known": [KNOWN] * 40 + [None] * 360}
    base |= {"share": [0.45] * ROWS, "drawn": [100.0] * ROWS, "hours": [8.0] * ROWS}
    for name, values in columns.items():
        base[name] = [*values, *base[name][len(values) :]]
    dates = {name: pa.array(base[name], pa.date32()) for name in ("opened", "event", "known")}
    done = lake.extract(
        [pa.table(base | dates).to_reader()], portfolio, AS_OF, folder / "lake", "0" * 64,
        memory_mb=256, threads=1, progress=lambda done, total, note: None,
    )  # fmt: skip
    return quality.check(
        suite(folder, rule("expect_table_row_count_to_be_between", "critical", min_value=1)),
        done.paths,
        portfolio=portfolio,
        as_of=AS_OF,
        quarantine=folder / "quarantine",
        missing=done.missing_segment,
    )


def test_a_good_book_breaks_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, AMOUNTS)
    assert found.failures == []
    assert found.excluded_rows == 0


STOPS = {
    "event a day before its opening": (
        {"event": [OPENED - timedelta(days=1)]},
        "no event is dated before opened",
        "1 rows",
    ),
    "known a day before": ({"known": [EVENT - timedelta(days=1)]}, "no event is known before its event", "1 rows"),
    "swapped": ({"event": [KNOWN] * 40, "known": [EVENT] * 40}, "no event is known before its event", "look swapped"),
    "unknown": ({"known": [None]}, "every event has a known", "1 of 40 rows"),
    "percent": ({"share": [45.0] * ROWS}, "share is a share from 0 to 1", "400 of 400 rows"),
    "negative": ({"drawn": [-1.0] * 5}, "drawn is 0 or more", "5 of 400 rows"),
    "not finite": ({"drawn": [float("nan")] * 5}, "drawn is 0 or more", "5 of 400 rows"),
    "no exposure": ({"hours": [0.0] * 5}, "hours is above 0", "5 of 400 rows"),
    "key of a float": ({"id": ["1.2345678901234567e+16"]}, "id is exact", "1.2345678901234567e+16"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_stops_a_book(name: str, tmp_path: Path) -> None:
    columns, words, detail = STOPS[name]
    with pytest.raises(QualityError, match=words) as caught:
        judged(tmp_path, AMOUNTS, **columns).require()
    assert detail in str(caught.value)
    assert caught.value.remedy


ASIDE = {
    "negative": ({"drawn": [-1.0] * 4}, "drawn is 0 or more"),
    "endless": ({"drawn": [float("inf")] * 4}, "drawn is 0 or more"),
    "above one": ({"share": [1.0, 1.01, -0.01, float("nan"), 0.0]}, "share is a share from 0 to 1"),
    "no exposure": ({"hours": [0.0, None, -1.0, float("nan")]}, "hours is above 0"),
}


@pytest.mark.parametrize("name", ASIDE)
def test_one_in_a_hundred_is_set_aside_with_the_rule_it_broke(name: str, tmp_path: Path) -> None:
    columns, words = ASIDE[name]
    found = judged(tmp_path, AMOUNTS, **columns)
    found.require()
    assert found.excluded is not None
    aside = pl.read_parquet(found.excluded)
    assert aside.height == found.excluded_rows == (3 if name == "above one" else 4)
    assert found.failing is not None
    assert set(pl.read_parquet(found.failing)["broken_rule"]) == {words}
    assert any(words in warning and "set aside" in warning for warning in found.warnings)


def test_one_event_in_a_thousand_without_a_known_date_is_set_aside(tmp_path: Path) -> None:
    rows = 1_200
    events = [EVENT] * 1_000 + [None] * 200
    frame = pl.DataFrame({"id": [f"{n:05d}" for n in range(rows)], "opened": [OPENED] * rows, "event": events})
    frame = frame.with_columns(known=pl.Series([None] + [KNOWN] * 999 + [None] * 200), region=pl.lit("x"))
    file = tmp_path / "rows.parquet"
    frame.write_parquet(file)
    columns = replace(PORTFOLIO.columns, segments=("region",), exit_date=None, protected=(), personal=())
    book = replace(PORTFOLIO, columns=columns, features={})
    found = quality.check(
        suite(tmp_path, rule("expect_table_row_count_to_be_between", "critical", min_value=1)),
        [file], portfolio=book, as_of=AS_OF, quarantine=tmp_path / "quarantine",
    )  # fmt: skip
    found.require()
    assert found.excluded_rows == 1


def test_values_that_differ_by_case_or_spaces_are_told(tmp_path: Path) -> None:
    segment = PORTFOLIO.columns.segments[0]
    found = judged(tmp_path, **{segment: ["R0", "R0 ", "r0", "R1", "R 1", "(missing)", None]})
    found.require()
    (told,) = [warning for warning in found.warnings if segment in warning]
    assert "'R0' beside 'R0 ' beside 'r0'" in told
    assert "1 rows say '(missing)' beside 1 without a value" in told
    assert "'R1'" not in told


def test_the_docs_hold_the_table_of_findings() -> None:
    text = (ROOT / "docs/portfolios.md").read_text()
    for line in FINDINGS.values():
        assert f"| {line.finding} | {line.words} |" in text
