"""Nights in the time zone of their book: what they score, which dates they refuse, and which one is the newest due."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from metarisk import jobs
from metarisk.domain import ConfigError, Job, SourceLate
from metarisk.job import dates as dating
from metarisk.jobs import Context
from metarisk.portfolios import draft_portfolio
from metarisk.settings import Settings
from tests.dated import STEP
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, Listener, Project

ZONE = "Pacific/Kiritimati"
"""14 hours ahead: its day begins at 10:00 UTC of the day before."""
FRAUD = """
[validation]
folds = 1
fold_months = 1
held_out = false
"""


def cards(first: date, last: date) -> pl.DataFrame:
    """A transaction every quarter of an hour, as instants; some dear ones are fraud, known a day later."""
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    made = pl.datetime_range(start, start + (last - first), STEP, eager=True, time_unit="us", time_zone="UTC")
    number = pl.int_range(len(made), eager=True)
    bad = (number % 7 == 0) & (number % 5 > 1)
    frame = pl.DataFrame(
        {
            "transaction_id": "T" + number.cast(pl.String),
            "opened_at": made,
            "region": "R" + (number % 3).cast(pl.String),
            "amount": (number % 5).cast(pl.Float64) + 1.0,
        }
    )
    return frame.with_columns(
        fraud_at=pl.when(bad).then("opened_at"), known_at=pl.when(bad).then(pl.col("opened_at") + pl.duration(days=1))
    )


@pytest.fixture
def files(tmp_path: Path) -> Project:
    """A project of files alone: no source, no warehouse."""
    for path, text in (("portfolios/tiny.toml", tiny.TOML), ("sql/extracts/tiny.sql", tiny.CAREFUL),
                       ("expectations/tiny.json", "{}"), ("expectations/scores.json", "{}")):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return Project(Settings(project=tmp_path, threads=1, memory_mb=256))


def test_consecutive_nights_score_every_row_on_its_local_day(make: Callable[..., Project]) -> None:
    project = make(frame=cards(FIRST - timedelta(days=120), FIRST + timedelta(days=3)))
    for path, text in draft_portfolio(NAME, tiny.TABLE, project.warehouse).files.items():
        (project.settings.project / path).write_text(text)
    toml = project.settings.project / "portfolios" / f"{NAME}.toml"
    text = toml.read_text()
    for old, new in (
        (r'^risk = "\w+"', 'risk = "fraud"'),
        (r'^timezone = "UTC"', f'timezone = "{ZONE}"'),
        (r"^horizon_\w+ = \d+", "horizon_days = 1"),
        (r"^reporting_lag_days = \d+", "reporting_lag_days = 1"),
        (r"^\[source\]", 'candidates = ["pooled_logistic"]\n\n[source]'),
    ):
        text, count = re.subn(old, new, text, count=1, flags=re.MULTILINE)
        assert count == 1, old
    toml.write_text(text + FRAUD)
    project.weekly(FIRST - timedelta(days=1))
    scored: dict[str, date] = {}
    for night in (FIRST, FIRST + timedelta(days=1)):
        assert project.nightly(night).outcome == "published"
        begins = datetime(night.year, night.month, night.day, tzinfo=UTC) - timedelta(hours=14)
        wanted = project.warehouse.rows(
            "SELECT transaction_id AS name FROM source.tiny_loans WHERE opened_at >= $begins AND opened_at < $ends",
            {"begins": begins, "ends": begins + timedelta(days=1)},
        )
        found = set(project.scores(night)["entity"])
        assert found == {row["name"] for row in wanted}
        assert len(found) == 96
        assert not found & scored.keys()
        scored |= dict.fromkeys(found, night)
        (rule,) = project.warehouse.rows(
            "SELECT success FROM metarisk.quality_result WHERE as_of = $as_of AND rule = 'rows opened on the as_of'",
            {"as_of": night},
        )
        assert rule["success"]


ENDS = {
    "UTC": datetime(2026, 6, 30, tzinfo=UTC),
    ZONE: datetime(2026, 6, 29, 10, tzinfo=UTC),
    "Pacific/Pago_Pago": datetime(2026, 6, 30, 11, tzinfo=UTC),
    "America/New_York": datetime(2026, 6, 30, 4, tzinfo=UTC),
}
"""When the day FIRST is over, by time zone."""


@pytest.mark.parametrize("zone", ENDS)
def test_a_date_is_over_when_its_last_instant_is_in_the_zone_of_the_book(zone: str, files: Project) -> None:
    files.edit("portfolios/tiny.toml", 'timezone = "UTC"', f'timezone = "{zone}"')
    over = replace(files.context(FIRST), clock=lambda: ENDS[zone])
    dating.require_over(over)
    with pytest.raises(ConfigError, match=f"{FIRST} is not over: it is {FIRST} 23:59 in {zone}") as error:
        dating.require_over(replace(over, clock=lambda: ENDS[zone] - timedelta(seconds=1)))
    assert f"the newest day that is over is {FIRST - timedelta(days=1)}" in error.value.remedy


RUNS: dict[str, Callable[[Context], object]] = {
    "nightly": jobs.nightly,
    "restatement": lambda context: jobs.nightly(
        replace(context, job=replace(context.job, mode="restatement", reason="why not"))
    ),
    "weekly": jobs.weekly,
    "backfill": lambda context: jobs.backfill(context, FIRST),
    "due": jobs.due,
}


def test_what_is_no_run_leaves_nothing(project: Project) -> None:
    before = sorted(project.settings.project.rglob("*"))
    attempts = project.count("run_attempt")
    later = replace(project.context(FIRST), clock=lambda: datetime(2026, 6, 29, 12, tzinfo=UTC))
    mistyped = replace(later, job=Job("tinny", FIRST))
    for run in RUNS.values():
        with pytest.raises(ConfigError, match="it is 2026-06-29 12:00 in UTC") as error:
            run(later)
        assert error.value.page is None
        with pytest.raises(ConfigError, match="did you mean 'tiny'"):
            run(mistyped)
    assert sorted(project.settings.project.rglob("*")) == before
    assert project.count("run_attempt") == attempts


class Begun(Exception):
    """The first step is called."""


def test_candidates_may_be_judged_at_a_date_to_come(duckdb: Project) -> None:
    def begin(step: object, context: Context, *inputs: object) -> object:
        raise Begun

    with pytest.raises(Begun):
        jobs.evaluate(duckdb.context(date(2030, 1, 1)), begin)  # type: ignore[arg-type]


def test_a_portfolio_whose_toml_is_wrong_fails_on_record(project: Project) -> None:
    project.edit("portfolios/tiny.toml", "[columns]", "[columns]\nentety = 1")
    with pytest.raises(ConfigError, match="unknown key") as error:
        project.nightly()
    assert error.value.page is not None
    attempts = project.warehouse.rows("SELECT outcome, step FROM metarisk.run_attempt WHERE as_of = $d", {"d": FIRST})
    assert [row["outcome"] for row in attempts] == ["failed"]


CALENDARS = {
    'calendar = "daily"': date(2026, 6, 28),
    'calendar = "business"': date(2026, 6, 26),
    'calendar = "month_end"': date(2026, 5, 31),
    'calendar = "table"\ncalendar_sql = "SELECT day FROM source.sessions"': date(2026, 6, 25),
}


def test_yesterday_is_the_newest_date_due_that_is_over(project: Project) -> None:
    # The close of a session in New York is of the next day in UTC.
    closes = pl.Series("day", [datetime(2026, 6, 26, 1, tzinfo=UTC), datetime(2026, 7, 3, 1, tzinfo=UTC)])
    project.warehouse.load("source.sessions", closes.to_frame().to_arrow().to_reader())
    monday = datetime(2026, 6, 30, 3, 59, tzinfo=UTC)
    toml = project.settings.project / "portfolios" / "tiny.toml"
    for calendar, newest in CALENDARS.items():
        toml.write_text(tiny.TOML.replace('timezone = "UTC"', f'timezone = "America/New_York"\n{calendar}'))
        context = replace(project.context(date(2026, 6, 28)), clock=lambda: monday)
        assert dating.newest_over(context) == newest
        assert jobs.due(context) == [newest]


def test_a_source_that_may_never_be_ready_says_how_long_it_is_asked(
    duckdb: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = 'ready_sql = "SELECT $as_of IS NULL AS ready"\ndeadline_minutes = 60'
    duckdb.edit("portfolios/tiny.toml", "[columns]", f"{ready}\n\n[columns]")
    duckdb.edit("portfolios/tiny.toml", 'timezone = "UTC"', 'timezone = "Europe/Berlin"')
    waited: list[float] = []
    monkeypatch.setattr("metarisk.steps.ready.time.sleep", waited.append)
    monkeypatch.setattr("metarisk.steps.ready.time.monotonic", lambda: 60.0 * 30 * len(waited))
    listener = Listener()
    with pytest.raises(SourceLate, match="within 60 minutes"):
        jobs.nightly(duckdb.context(FIRST, reporter=listener))
    assert len(waited) > 1
    assert listener.warnings == [
        "tiny: the source is not ready for 2026-06-29, asking until 2026-08-01 15:00 in Europe/Berlin, 60 minutes"
    ]


def test_a_night_without_rows_of_its_day_is_amber_where_its_weekday_always_has_some(
    make: Callable[..., Project],
) -> None:
    frame = tiny.book(1_400)
    busy = [FIRST - timedelta(weeks=weeks) for weeks in range(1, 5)]
    crowd = pl.concat([frame.with_columns(opened_on=pl.lit(day)).head(12) for day in busy])
    crowd = crowd.with_columns(
        loan_id=pl.format("C{}", pl.int_range(pl.len())),
        event_date=pl.lit(None, pl.Date),
        known_date=pl.lit(None, pl.Date),
        exit_date=pl.lit(None, pl.Date),
        amount=pl.col("amount").abs(),
    )
    project = make(frame=pl.concat([frame.filter(pl.col("opened_on") != FIRST), crowd]))
    project.weekly(CUT_OFF)
    listener = Listener()
    jobs.nightly(project.context(FIRST, reporter=listener))
    assert any("rows opened on the as_of failed: none, " in line for line in listener.warnings)
