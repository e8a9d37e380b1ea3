"""Nights in sequence: done, due, backfilled, restated, carried, and with the champion of their own time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from multiprocessing import Pipe
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TypeVar

import polars as pl
import pytest

from metarisk import jobs
from metarisk.domain import DataError, LockedError, ModelError
from metarisk.job import outcomes
from metarisk.jobs import Context
from tests.end_to_end import dying, tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, SECOND, Listener, Project, differences

Result = TypeVar("Result")
PATIENCE_SECONDS = 120
THIRD = date(2026, 7, 1)


def nights(project: Project) -> list[tuple[date, str, int]]:
    """As of, mode and sequence number of every publication, in the order of publication."""
    rows = project.warehouse.rows("SELECT as_of, mode, seq FROM metarisk.night ORDER BY published_at")
    return [(row["as_of"], row["mode"], row["seq"]) for row in rows]


def test_a_model_past_its_age_makes_a_night_amber_that_is_published_all_the_same(published_project: Project) -> None:
    project = published_project
    project.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nmax_model_age_days = 1\n\n[validation]")
    page = project.nightly(SECOND).page
    found = project.warehouse.rows(
        "SELECT as_of, model_age_days, max_model_age_days, status, status_reason FROM metarisk.night ORDER BY as_of"
    )
    why = "the model is 2 days old, more than max_model_age_days = 1: run the weekly"
    assert [tuple(row.values()) for row in found] == [(FIRST, 1, 60, "green", None), (SECOND, 2, 1, "amber", why)]
    assert project.warehouse.rows("SELECT max(as_of) AS newest FROM metarisk.score_current") == [{"newest": SECOND}]
    assert page is not None
    text = page.read_text()
    assert '<header class="watch">' in text
    assert "with a model of 2 days, at most 1 are allowed" in text
    assert why in text


def test_two_runs_at_once(project: Project, forked: ForkServerContext, undisturbed: dict[str, list[str]]) -> None:
    here, there = Pipe()
    first = forked.Process(target=dying.hold, args=(project, FIRST, there))
    first.start()
    assert here.recv() == "holding"
    with pytest.raises(LockedError, match=rf"lock 'tiny' is held by .*pid {first.pid} on .*Remedy: wait until"):
        project.nightly(FIRST)
    assert project.count("publication") == 0
    here.send("go on")
    assert here.recv() == "published"
    first.join(PATIENCE_SECONDS)
    assert project.nightly(FIRST).outcome == "already_published"
    assert differences(project.contents(), undisturbed) == []


def test_two_runs_that_race(project: Project, forked: ForkServerContext, undisturbed: dict[str, list[str]]) -> None:
    gate = forked.Barrier(2)
    results = forked.SimpleQueue()
    both = [forked.Process(target=dying.race, args=(project, FIRST, gate, results)) for _ in range(2)]
    for process in both:
        process.start()
    ended = sorted(results.get() for _ in both)
    for process in both:
        process.join(PATIENCE_SECONDS)
    assert "published" in ended
    assert ended in (["LockedError", "published"], ["already_published", "published"])
    assert differences(project.contents(), undisturbed) == []


def test_a_done_night_is_left_alone(published_project: Project, undisturbed: dict[str, list[str]]) -> None:
    project = published_project
    first = project.warehouse.rows("SELECT run_id FROM metarisk.night")[0]["run_id"]
    attempts = project.count("run_attempt")
    project.load(tiny.book().head(300))
    again = project.nightly(FIRST)
    assert (again.outcome, again.run_id) == ("already_published", first)
    assert again.page is not None
    assert project.count("run_attempt") == attempts
    assert differences(project.contents(), undisturbed) == []


def as_known(project: Project, moment: datetime) -> pl.DataFrame:
    """Every column of every score that was current at a moment, but for when it ceased to be."""
    rows = project.warehouse.rows(
        "SELECT * FROM metarisk.score_as_known WHERE known_from <= $at AND (known_to IS NULL OR known_to > $at) "
        "ORDER BY as_of, entity, target",
        {"at": moment},
    )
    return pl.DataFrame(rows, infer_schema_length=None).drop("known_to")


def events(frame: pl.DataFrame, as_of: date) -> set[tuple[object, ...]]:
    """Entity, opening, event and known date of all that happened in a book, by hand; wrong rows are quarantined."""
    known = frame.filter((pl.col("known_date") <= as_of) & (pl.col("amount") >= 0) & (pl.col("opened_on") <= as_of))
    return set(known.select("loan_id", "opened_on", "event_date", "known_date").iter_rows())


CURRENT = "SELECT entity, opened_on, event_date, known_date FROM metarisk.outcome_current WHERE value = 1"
TELLINGS = "SELECT * FROM metarisk.outcome WHERE as_of <= $as_of AND seq = 1 ORDER BY entity"


def test_restated_after_a_correction(published_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amounts, and labels: one comes late, with a date on which others were known already, one moves, one is gone."""
    monkeypatch.setattr("metarisk.lake.parts.ROWS_A_PART", 100)
    project, book = published_project, tiny.book()
    before, tellings = project.scores(), project.warehouse.rows(TELLINGS, {"as_of": FIRST})
    assert {tuple(row.values()) for row in project.warehouse.rows(CURRENT)} == events(book, FIRST)
    (moment,) = (row["published_at"] for row in project.warehouse.rows("SELECT published_at FROM metarisk.publication"))
    then = as_known(project, moment)
    assert then.height == before.height
    moved, gone = book.filter((pl.col("known_date") < FIRST - timedelta(days=60)) & (pl.col("amount") > 0))["loan_id"][
        :2
    ]
    old = (pl.col("opened_on") < FIRST - timedelta(days=100)) & (pl.col("amount") > 0)
    late = book.filter(old & pl.col("event_date").is_null() & pl.col("exit_date").is_null())["loan_id"][0]
    now, day = pl.col("loan_id"), pl.col("event_date")
    corrected = book.with_columns(
        amount=pl.col("amount").abs(),
        event_date=pl.when(now == late).then(pl.lit(FIRST - timedelta(days=50)))
        .when(now == moved).then(day - pl.duration(days=3)).when(now != gone).then(day),
        known_date=pl.when(now == late).then(pl.lit(FIRST - timedelta(days=40)))
        .when(now != gone).then(pl.col("known_date")),
    )  # fmt: skip
    project.load(corrected)
    result = project.nightly(FIRST, "restatement", "wrong signs")
    assert result.outcome == "published"
    assert nights(project) == [(FIRST, "nightly", 1), (FIRST, "restatement", 2)]
    assert project.scores().height == result.rows_scored > before.height
    assert project.count("score_current") == result.rows_scored
    assert not project.scores().equals(before)
    assert as_known(project, moment).equals(then)
    known = project.warehouse.rows(
        "SELECT seq, publication_reason, known_from, known_to, count(*) AS n FROM metarisk.score_as_known "
        "GROUP BY seq, publication_reason, known_from, known_to ORDER BY seq"
    )
    assert [row["n"] for row in known] == [before.height, result.rows_scored]
    assert [row["publication_reason"] for row in known] == [None, "wrong signs"]
    assert known[0]["known_from"] < known[0]["known_to"] == known[1]["known_from"]
    assert known[1]["known_to"] is None

    assert {tuple(row.values()) for row in project.warehouse.rows(CURRENT)} == events(corrected, FIRST)
    assert [row for row in project.warehouse.rows(TELLINGS, {"as_of": FIRST}) if row in tellings] == tellings
    again = project.warehouse.rows("SELECT entity, value, known_date FROM metarisk.outcome WHERE seq = 2")
    assert {row["entity"]: row["value"] for row in again} == {moved: 1, gone: 0}
    count = project.count("outcome")
    project.nightly(SECOND)
    assert {tuple(row.values()) for row in project.warehouse.rows(CURRENT)} == events(corrected, SECOND)
    assert project.count("outcome") == count + len(events(corrected, SECOND) - events(corrected, FIRST))
    assert list(outcomes.new_outcomes(project.context(FIRST), pl.LazyFrame(), 0)) == []


def test_restated_from_the_same_inputs_is_the_same_run(published: Project) -> None:
    scores = published.count("risk_score")
    published.nightly(FIRST, "restatement", "to be sure")
    assert (published.count("risk_score"), published.count("run")) == (scores, 1)
    assert nights(published) == [(FIRST, "nightly", 1)]


def test_what_is_due_is_caught_up_and_backfill_skips_what_is_done(project: Project) -> None:
    assert jobs.due(project.context(THIRD)) == [THIRD]
    project.nightly(FIRST)
    assert jobs.due(project.context(THIRD)) == [SECOND, THIRD]
    project.nightly(THIRD)
    assert jobs.due(project.context(THIRD)) == [SECOND]
    found = jobs.backfill(project.context(THIRD, "backfill"), FIRST)
    results = found.nights
    assert found.weeks == ()
    assert [result.as_of for result in results] == [FIRST, SECOND, THIRD]
    assert [result.outcome for result in results] == ["already_published", "published", "already_published"]
    assert nights(project) == [(FIRST, "nightly", 1), (THIRD, "nightly", 1), (SECOND, "backfill", 1)]
    assert jobs.due(project.context(THIRD)) == []
    project.edit("portfolios/tiny.toml", 'risk = "credit"', 'risk = "credit"\ncatch_up = "latest"')
    assert jobs.due(project.context(THIRD + timedelta(days=3))) == [THIRD + timedelta(days=3)]


def test_a_backfilled_night_is_the_night_itself(duckdb: Project, undisturbed: dict[str, list[str]]) -> None:
    duckdb.nightly(THIRD)
    jobs.backfill(duckdb.context(FIRST, "backfill"), FIRST)
    both, alone = duckdb.contents(), undisturbed
    for table in ("risk_score", "adaptation", "drift_metric"):
        assert [row for row in both[table] if f"datetime.date{(2026, 6, 29)}" in row] == alone[table]


class Stops(Exception):
    """A process that ends."""


def test_a_backfill_trains_the_missing_weeks_first_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    project = tiny.make(tmp_path / "project")
    friday, saturday = date(2026, 6, 26), date(2026, 6, 27)
    context = project.context(saturday)
    with pytest.raises(ModelError, match="no champion has a label cut-off on or before 2026-06-26"):
        jobs.backfill(context, friday, train=False)
    assert project.count("model") == 0

    def killed(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if (step.__name__, context.job.as_of) == ("train", saturday):
            raise Stops
        return jobs.direct(step, context, *inputs)

    with pytest.raises(Stops):
        jobs.backfill(context, friday, killed)
    assert (project.count("model"), project.count("publication")) == (1, 0)
    found = jobs.backfill(context, friday)
    assert [week.as_of for week in found.weeks] == [saturday]
    assert [(night.as_of, night.outcome) for night in found.nights] == [(friday, "published"), (saturday, "published")]
    # the cut-offs are the Saturdays of the schedule: of the week before for Friday, of the day itself for Saturday
    lines = project.warehouse.rows(
        "SELECT k.as_of, r.mode, r.reason, m.as_of AS cut_off, CAST(min(k.known_from) AS DATE) AS known "
        "FROM metarisk.score_as_known AS k JOIN metarisk.run AS r ON r.run_id = k.run_id "
        "JOIN metarisk.model AS m ON m.model_id = r.model_id "
        "GROUP BY k.as_of, r.mode, r.reason, m.as_of ORDER BY k.as_of"
    )
    known = tiny.noon().date()
    assert known > saturday
    assert [tuple(line.values()) for line in lines] == [
        (friday, "backfill", "backfill", saturday - timedelta(days=7), known),
        (saturday, "backfill", "backfill", saturday, known),
    ]
    written = project.contents()
    again = jobs.backfill(context, friday)
    assert again.weeks == ()
    assert {night.outcome for night in again.nights} == {"already_published"}
    assert differences(project.contents(), written) == []


def test_a_week_that_cannot_be_trained_is_told_and_its_nights_take_the_champion_before(duckdb: Project) -> None:
    listener = Listener()

    def failing(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == "judge":
            raise DataError("the history has a hole", remedy="load it")
        return jobs.direct(step, context, *inputs)

    late = CUT_OFF + timedelta(days=8)
    jobs.backfill(duckdb.context(late, reporter=listener), late, failing)
    assert [
        line
        for line in listener.warnings
        if "the week of 2026-07-04 was not trained" in line and "the history has a hole" in line
    ]
    (champion,) = duckdb.warehouse.rows("SELECT model_id, as_of FROM metarisk.model")
    assert duckdb.warehouse.rows("SELECT model_id FROM metarisk.night") == [{"model_id": champion["model_id"]}]
    # before any champion the week's own error is the one that helps
    with pytest.raises(DataError, match="the history has a hole"):
        jobs.backfill(duckdb.context(CUT_OFF - timedelta(days=1)), CUT_OFF - timedelta(days=1), failing)


def test_segments_without_new_labels_are_carried(duckdb: Project) -> None:
    # A hazard learns something every day, of every row at risk; labels over the whole horizon come one by one.
    duckdb.edit(
        "portfolios/tiny.toml", "[source]", '[learner]\nname = "map_head"\n\n[promotion]\nrule = "always"\n\n[source]'
    )
    duckdb.weekly(FIRST)
    for day in (FIRST, SECOND):
        duckdb.nightly(day)
    was, now = ({row["segment"]: row["status"] for row in duckdb.scores(day).to_dicts()} for day in (FIRST, SECOND))
    assert was == {
        "east|auto": "abstained",
        "north|auto": "adapted",
        "north|cash": "adapted",
        "south|auto": "adapted",
        "south|cash": "adapted",
        "west|cash": "fallback",
    }
    assert now == {segment: status.replace("adapted", "carried") for segment, status in was.items()}
    ids = duckdb.warehouse.rows(
        "SELECT segment, count(DISTINCT adaptation_id) AS n FROM metarisk.adaptation GROUP BY segment"
    )
    assert all(row["n"] == 1 for row in ids)


def test_a_night_uses_the_champion_of_its_own_time(duckdb: Project) -> None:
    first = duckdb.weekly(CUT_OFF).model_id
    newer = duckdb.weekly(THIRD).model_id
    assert newer != first
    for day in (SECOND, THIRD):
        duckdb.nightly(day)
    rows = duckdb.warehouse.rows("SELECT as_of, model_id FROM metarisk.night ORDER BY as_of")
    assert [(row["as_of"], row["model_id"]) for row in rows] == [(SECOND, first), (THIRD, newer)]
    states = duckdb.warehouse.rows("SELECT model_id, state FROM metarisk.model_current")
    assert {row["model_id"]: row["state"] for row in states} == {first: "retired", newer: "champion"}


def test_a_week_that_is_trained_late_serves_its_past_alone(duckdb: Project) -> None:
    champion = duckdb.warehouse.rows("SELECT model_id FROM metarisk.model")[0]["model_id"]
    late = duckdb.weekly(CUT_OFF - timedelta(days=30)).model_id
    duckdb.nightly(FIRST)
    duckdb.nightly(CUT_OFF - timedelta(days=1))
    rows = duckdb.warehouse.rows("SELECT model_id FROM metarisk.night ORDER BY as_of")
    assert [row["model_id"] for row in rows] == [late, champion]
    states = duckdb.warehouse.rows("SELECT model_id, state FROM metarisk.model_current")
    assert {row["model_id"]: row["state"] for row in states} == {late: "retired", champion: "champion"}
