"""Bad input of every kind through whole nights: what cannot be used is refused by name, what can be is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metarisk import jobs
from metarisk.domain import ConfigError, DataError, MetariskError, ModelError, QualityError
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CAREFUL, EVERYTHING, FIRST, NAME, SECOND, Listener, Project
from tests.warehouses import Server

Spoil = Callable[[pl.DataFrame], pl.DataFrame]
LONG = "x" * 10_000_000


@dataclass(frozen=True)
class Case:
    """Something wrong with the source, and the error that a night ends with."""

    spoil: Spoil
    error: type[MetariskError]
    words: str
    column: str | None = None
    sql: str = EVERYTHING
    rules: tuple[dict[str, Any], ...] = field(default=())


def constant(**columns: object) -> Spoil:
    return lambda frame: frame.with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def some(rows: int, **columns: object) -> Spoil:
    """The first rows get a value; the others keep theirs."""
    first = pl.int_range(pl.len()) < rows
    return lambda frame: frame.with_columns(
        **{name: pl.when(first).then(pl.lit(value)).otherwise(pl.col(name)) for name, value in columns.items()}
    )


KNOWN_BY_AS_OF = {
    "type": "expect_column_values_to_be_between",
    "severity": "critical",
    "kwargs": {"column": "known_date", "max_value": "$as_of"},
}
REFUSED = {
    "empty": Case(lambda frame: frame.clear(), DataError, "the extract is empty"),
    "missing": Case(lambda frame: frame.drop("income"), DataError, "no such column; it has loan_id, .*", "income"),
    "missing in the SQL": Case(lambda frame: frame.drop("income"), ConfigError, '"income"', sql=CAREFUL),
    "renamed": Case(
        lambda frame: frame.rename({"income": "incomes"}), DataError, r"\(did you mean 'incomes'\?\)", "income"
    ),
    "number as text": Case(
        lambda frame: frame.cast({"amount": pl.String}), DataError, "gives string where numbers were declared", "amount"
    ),
    "date as text": Case(
        lambda frame: frame.cast({"opened_on": pl.String}), DataError, "gives string where dates", "opened_on"
    ),
    "all null": Case(
        lambda frame: frame.with_columns(income=pl.lit(None, pl.Float64)), DataError, "none of 700 rows has a", "income"
    ),
    "all infinite": Case(
        constant(income=float("-inf")), DataError, r"none of 700 rows has a value \(700 were NaN or inf", "income"
    ),
    "no key": Case(some(2, loan_id=None), DataError, "2 of 700 rows have no value in this key", "loan_id"),
    "duplicate entity": Case(
        lambda frame: pl.concat([frame, frame.filter(pl.col("loan_id") == "T00123")]),
        DataError,
        "comes more than once for T00123",
        "loan_id",
    ),
    "10 MB key": Case(some(1, loan_id=LONG), DataError, "1 entities are longer than 1,?024 characters", "loan_id"),
    "no opening date": Case(
        some(3, opened_on=None), QualityError, "critical rule of tiny failed: column values to not be null", "opened_on"
    ),
    "label in the future": Case(
        lambda frame: frame, QualityError, "values to be at most", "known_date", rules=(KNOWN_BY_AS_OF,)
    ),
    "event before opening": Case(
        lambda frame: frame.with_columns(
            event_date=pl.when(loan_id="T00123").then(date(2020, 1, 1)).otherwise("event_date"),
            known_date=pl.when(loan_id="T00123").then(date(2026, 1, 1)).otherwise("known_date"),
        ),
        QualityError,
        "no event is dated before opened_on: 1 rows, T00123 for one",
        "event_date",
    ),
    "event known before it happened": Case(
        lambda frame: frame.with_columns(
            known_date=pl.when(loan_id="T00123").then(date(2026, 1, 1)).otherwise("known_date"),
            event_date=pl.when(loan_id="T00123").then(date(2026, 2, 1)).otherwise("event_date"),
        ),
        QualityError,
        "no event is known before its event_date: 1 rows, T00123 for one",
        "known_date",
    ),
    "too many wrong rows": Case(some(200, amount=-1.0), QualityError, "at most 10% of rows are set aside: 201 rows"),
    "recoded segments": Case(
        lambda frame: frame.with_columns(pl.col("region").replace({"north": "N", "south": "S"})),
        QualityError,
        "segment key recoded.*never seen before; region: new values 'N', 'S'; known values that are gone: 'north', "
        "'south'",
        "region",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_and_nothing_is_published(name: str, duckdb: Project) -> None:
    case = REFUSED[name]
    tiny.write_rules(duckdb.settings.project, case.sql, case.rules)
    duckdb.load(case.spoil(tiny.book()))
    with pytest.raises(case.error, match=case.words) as caught:
        duckdb.nightly(FIRST)
    error = caught.value
    assert (error.portfolio, error.column, error.on) == (NAME, case.column, FIRST)
    assert len(error.remedy) > 10
    assert len(str(error)) < 2_000
    assert {table: duckdb.count(table) for table in ("publication", "run", "risk_score", "adaptation")} == {
        "publication": 0, "run": 0, "risk_score": 0, "adaptation": 0,
    }  # fmt: skip
    attempt = duckdb.warehouse.rows("SELECT outcome, error FROM metarisk.attempt WHERE job = 'night'")[0]
    assert (attempt["outcome"], attempt["error"]) == ("failed", str(error))


WRITING = (
    "DELETE FROM metarisk.model WHERE portfolio <> '$as_of' AND as_of <= $as_of",
    "SELECT * FROM source.tiny_loans WHERE opened_on <= $as_of; DELETE FROM metarisk.model",
    "WITH gone AS (DELETE FROM metarisk.model WHERE as_of <= $as_of RETURNING *) SELECT * FROM gone",
)


@pytest.mark.parametrize("place", ["extract", "further extract", "ready_sql", "calendar_sql"])
def test_sql_of_a_portfolio_that_writes_is_refused(place: str, project: Project) -> None:
    toml = project.settings.project / "portfolios" / "tiny.toml"
    before, models = toml.read_text(), project.count("model")
    assert models
    for sql in WRITING if place == "extract" else WRITING[:1]:
        asked = json.dumps(sql.replace("<= $as_of", "< DATE '2100-01-01'") if place == "calendar_sql" else sql)
        text = {
            "ready_sql": before.replace("[source]", f"[source]\nready_sql = {asked}"),
            "calendar_sql": f'calendar = "table"\ncalendar_sql = {asked}\n{before}',
            "further extract": before.replace("[source]", '[source]\nalso = { more = "more.sql" }'),
            "extract": before,
        }[place]
        toml.write_text(text)
        for name in {"extract": ["tiny"], "further extract": ["more"]}.get(place, []):
            (project.settings.project / "sql" / "extracts" / f"{name}.sql").write_text(sql)
        with pytest.raises(ConfigError):
            if place == "calendar_sql":
                jobs.due(project.context(SECOND))
            else:
                project.nightly(FIRST)
        assert (project.count("model"), project.count("publication")) == (models, 0)


@pytest.mark.parametrize("name", ["missing", "number as text", "recoded segments", "10 MB key"])
@pytest.mark.xdist_group("postgresql")
def test_the_server_refuses_the_same(
    name: str, trained_on_postgresql: tuple[Project, str], postgresql: Server, tmp_path: Path
) -> None:
    case, (trained, database) = REFUSED[name], trained_on_postgresql
    project = tiny.copy(trained, tmp_path / "project", postgresql.url(postgresql.create_database(database)))
    tiny.write_rules(project.settings.project, case.sql, case.rules)
    project.load(case.spoil(tiny.book()))
    with pytest.raises(case.error, match=case.words) as caught:
        project.nightly(FIRST)
    assert (caught.value.portfolio, caught.value.column, caught.value.on) == (NAME, case.column, FIRST)
    assert project.count("publication") == 0


def test_far_fewer_rows_than_usual_then_the_whole_book(published: Project) -> None:
    published.load(tiny.book().head(200))
    with pytest.raises(DataError, match="rows were extracted, less than 55% of the usual"):
        published.nightly(SECOND)
    published.load(tiny.book())
    assert published.nightly(SECOND).outcome == "published"


def test_future_labels_and_loans_are_not_read(published: Project) -> None:
    expected = published.scores().drop("status")
    tiny.write_rules(published.settings.project, EVERYTHING)
    published.nightly(FIRST, "restatement", "the SQL lets the future in")
    assert_frame_equal(published.scores().drop("status"), expected, check_exact=True)


def test_good_segments_are_published_where_others_fail(published: Project) -> None:
    before = published.scores()
    east, west = (pl.col("region") == region for region in ("east", "west"))
    published.load(
        tiny.book().with_columns(
            amount=pl.when(east).then(-1.0).otherwise("amount"),
            product=pl.when(west).then(pl.lit("kash")).otherwise("product"),
        )
    )
    published.nightly(FIRST, "restatement", "one segment is broken, one has a new name")
    after = published.scores()
    assert "west|kash" in after["segment"]
    assert "east|auto" not in after["segment"]
    good = pl.col("segment").str.contains("north|south")
    kept = [frame.filter(good).select("entity", "segment") for frame in (before, after)]
    assert_frame_equal(kept[0], kept[1])
    run = published.warehouse.rows("SELECT rows_quarantined, rows_scored FROM metarisk.night WHERE is_current")[0]
    aside = (pl.col("opened_on") <= FIRST) & (east | (pl.col("amount") < 0))
    assert run == {"rows_quarantined": tiny.book().filter(aside).height, "rows_scored": after.height}


def test_a_book_of_new_segments_falls_back_to_the_pool(duckdb: Project) -> None:
    duckdb.load(tiny.book().with_columns(region=pl.lit("atlantis-") + pl.col("region")))
    with pytest.raises(QualityError, match="100% of rows are in segments never seen before"):
        duckdb.nightly(FIRST)
    duckdb.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nmax_unseen_share = 1.0\n\n[validation]")
    # so young that not one month at risk is known of them
    young = (pl.col("opened_on") > date(2026, 4, 30)) & (pl.col("opened_on") <= FIRST)
    duckdb.load(tiny.book().filter(young).with_columns(region=pl.lit("atlantis-") + pl.col("region")))
    duckdb.nightly(FIRST)
    scores = duckdb.scores()
    assert set(scores["status"]) == {"fallback"}
    assert scores.height > 20
    assert scores["score"].is_between(0, 1, closed="none").all()


def test_one_class_teaches_nothing_but_the_champion_goes_on(duckdb: Project) -> None:
    never = dict.fromkeys(("event_date", "known_date"))
    duckdb.load(tiny.book().with_columns(**{name: pl.lit(None, pl.Date) for name in never}))
    with pytest.raises(ModelError, match="with 0 events of target pd_12m teach nothing") as caught:
        duckdb.weekly(FIRST)
    assert (caught.value.portfolio, caught.value.column, caught.value.on) == (NAME, "event_date", FIRST)
    assert duckdb.count("model") == 1
    duckdb.nightly(FIRST)
    assert set(duckdb.scores()["status"]) == {"abstained"}


def test_one_segment_is_a_book_like_any_other(make: Callable[..., Project]) -> None:
    project = make(frame=tiny.book().with_columns(region=pl.lit("north"), product=pl.lit("auto")))
    week, night = project.weekly(), project.nightly(FIRST)
    scores = project.scores()
    assert set(scores["segment"]) == {"north|auto"}
    assert set(scores["status"]) == {"adapted"}
    assert scores["score"].is_between(0, 1, closed="none").all()
    assert "north · auto" in night.page.read_text()
    assert "no model has seen" not in week.page.read_text()


def test_a_feature_that_leaks_is_refused_and_named_to_everyone_who_vouches_for_it(make: Callable[..., Project]) -> None:
    """Collection costs are booked once a loan has defaulted."""
    costs = pl.when(pl.col("event_date").is_not_null()).then(pl.col("amount")).otherwise(None)
    project = make(
        frame=tiny.book().with_columns(costs=costs),
        toml=tiny.TOML.replace("[features.income]", '[features.costs]\nkind = "numeric"\n\n[features.income]'),
        sql=EVERYTHING,
    )
    with pytest.raises(DataError, match=r"feature costs tells the outcome: a missing value means no event") as caught:
        project.weekly()
    assert (caught.value.portfolio, caught.value.column) == (NAME, "costs")
    assert project.count("model") == 0
    assert "feature costs tells the outcome" in caught.value.page.read_text()
    project.edit("portfolios/tiny.toml", "[features.costs]", "[features.costs]\noutcome_free = true")
    reporter = Listener()
    week = jobs.weekly(project.context(tiny.CUT_OFF, reporter=reporter))
    (warning,) = [text for text in reporter.warnings if "feature" in text]
    assert "declares it `outcome_free`" in warning
    assert "feature costs tells the outcome" in week.page.read_text()
    rows = project.warehouse.rows("SELECT candidate, value, note FROM metarisk.evidence WHERE protocol = 'features'")
    found = {row["candidate"]: row for row in rows}
    assert set(found) == {"amount", "income", "costs", "channel", "first_credit_on"}
    assert found["costs"]["value"] > 0.95
    assert {row["candidate"] for row in rows if row["note"]} == {"costs"}


def test_nan_and_infinities_are_missing_values(project: Project) -> None:
    project.load(some(60, income=None)(tiny.book()))
    project.nightly(FIRST)
    expected = project.scores()
    book = some(60, income=float("nan"))(tiny.book())
    project.load(some(30, income=float("inf"))(book))
    result = project.nightly(FIRST, "restatement", "NaN instead of null")
    assert_frame_equal(project.scores().drop("status"), expected.drop("status"), check_exact=True)
    assert result.page is not None
    assert "NaN or infinite values became null" in result.page.read_text()


def test_a_moment_near_midnight_is_a_date_of_the_portfolio(project: Project) -> None:
    """23:30 in New York is the next day in UTC: as a date of the portfolio it is the day it was there."""
    tiny.write_rules(project.settings.project, EVERYTHING)
    project.edit("portfolios/tiny.toml", 'timezone = "UTC"', 'timezone = "America/New_York"')
    project.nightly(FIRST)
    expected = project.scores()
    late = pl.col("opened_on", "event_date", "known_date", "exit_date").cast(pl.Datetime("us"))
    moments = late.dt.offset_by("23h30m").dt.replace_time_zone("America/New_York").dt.convert_time_zone("UTC")
    project.load(tiny.book().with_columns(moments))
    project.nightly(FIRST, "restatement", "moments instead of dates")
    assert_frame_equal(project.scores().drop("status"), expected.drop("status"), check_exact=True)


HOSTILE = ["O'Brien; DROP TABLE metarisk.run; --", '"quoted" \\ | $as_of', "<script>alert(1)</script>", "💥 é\n\t%s"]
COLUMN = 'in"come; <b>💰</b>'


def test_hostile_names_are_data(make: Callable[..., Project]) -> None:
    """Segment values, entities, a column and the title, from training to the page."""
    regions = dict(zip(("north", "south", "east", "west"), HOSTILE, strict=True))
    book = tiny.book().with_columns(
        pl.col("region").replace(regions), loan_id=pl.col("loan_id") + "'\"; <script>💥", channel=pl.lit(HOSTILE[0])
    )
    toml = tiny.TOML.replace("Tiny loans", "<script>alert('t')</script> & \\\"co\\\"")
    toml = toml.replace("[features.income]", f"[features.'{COLUMN}']")
    project = make(frame=book.rename({"income": COLUMN}), toml=toml, sql=EVERYTHING)
    week = project.weekly()
    night = project.nightly(FIRST)
    found = {row["entity"] for row in project.warehouse.rows("SELECT entity FROM metarisk.score_current")}
    assert found <= set(book["loan_id"])
    segments = set(project.scores()["segment"])
    assert HOSTILE[0] + "|auto" in segments
    assert '"quoted" \\\\ \\| $as_of|auto' in segments
    pages = list(project.settings.data_dir.glob("reports/*/*.html"))
    assert {week.page, night.page} <= set(pages)
    assert len(pages) == 4  # week, model card, night, drift
    for page in pages:
        html = page.read_text()
        assert "&lt;script&gt;alert" in html
        assert "<script>alert" not in html
        assert "<b>💰" not in html


def test_texts_of_ten_megabytes_are_cut(project: Project) -> None:
    entity = tiny.book().filter(pl.col("opened_on").is_between(date(2026, 1, 1), FIRST))["loan_id"][0]
    this = pl.col("loan_id") == entity
    project.load(
        tiny.book().with_columns(
            pl.when(this).then(pl.lit(LONG + name)).otherwise(name).alias(name) for name in ("region", "channel")
        )
    )
    result = project.nightly(FIRST)
    scored = project.scores().filter(pl.col("entity") == entity).to_dicts()
    assert [(row["status"], len(row["segment"]) < 200) for row in scored] == [("abstained", True)]
    assert result.page is not None
    assert result.page.stat().st_size < 2_000_000
