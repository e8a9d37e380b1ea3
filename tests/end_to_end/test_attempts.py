"""Nothing dies without a row: what is raised is recorded, what is killed is told by whoever looks next, weeks too."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.context import ForkServerContext
from typing import Any, TypeVar

import polars as pl
import pytest
from duckdb import connect
from polars.exceptions import PanicException
from typer.testing import CliRunner

from metarisk import jobs
from metarisk.cli import app
from metarisk.domain import MetariskError, ModelError
from metarisk.jobs import Context
from metarisk.upkeep import doctor as health
from metarisk.upkeep.status import Standing, standings
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.end_to_end import dying, tiny
from tests.end_to_end.conftest import ON_DUCKDB
from tests.end_to_end.test_kills import kill
from tests.end_to_end.test_refusals import text_of
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Listener, Project

Result = TypeVar("Result")


def attempts(project: Project) -> list[dict[str, Any]]:
    """Every attempt but the week of the fixture, as the warehouse tells it and as BI finds it in its file."""
    columns = "job, as_of, mode, outcome, step, error"
    sql = f"SELECT {columns} FROM metarisk.attempt WHERE NOT (job = 'week' AND as_of = '{CUT_OFF}') ORDER BY outcome"
    found = project.warehouse.rows(sql)
    warehouse = project.warehouse
    if isinstance(warehouse, DuckDBWarehouse):
        with connect(warehouse.path.with_name("warehouse-bi.duckdb"), read_only=True) as file:
            assert file.execute(sql).fetchall() == [tuple(row.values()) for row in found if row["outcome"] != "running"]
    return found


def standing(project: Project) -> Standing:
    (found,) = standings(project.settings)
    return found


@ON_DUCKDB
def test_whatever_is_raised_is_recorded_and_has_a_page(project: Project) -> None:
    def interrupted(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == "score":
            raise KeyboardInterrupt
        return jobs.direct(step, context, *inputs)

    with pytest.raises(KeyboardInterrupt):
        jobs.nightly(project.context(FIRST), interrupted)
    assert attempts(project) == [
        {"job": "night", "as_of": FIRST, "mode": "nightly", "outcome": "failed", "step": "score",
         "error": "KeyboardInterrupt"}
    ]  # fmt: skip
    (page,) = project.settings.data_dir.glob(f"reports/*/{FIRST}-not-published.html")
    assert "stopped in step score" in text_of(page)
    assert "Step score was ended from outside by KeyboardInterrupt." in text_of(page)
    assert f"the last night ({FIRST}) failed in step score: KeyboardInterrupt" in standing(project).reason
    # Published at last, it has no page that says that it was not.
    project.nightly(FIRST)
    assert not page.exists()


def test_a_panic_of_polars_is_an_error_of_its_night_alone(duckdb: Project) -> None:
    def panicking(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == "extract":
            raise PanicException("called `Option::unwrap()` on a `None` value")
        return jobs.direct(step, context, *inputs)

    with pytest.raises(
        MetariskError, match=rf"tiny, as of {FIRST}: the step extract ended in a panic of Polars. Remedy"
    ):
        jobs.nightly(duckdb.context(FIRST), panicking)
    assert [row["outcome"] for row in attempts(duckdb)] == ["failed"]


def test_a_killed_night_is_told_as_dead_by_whoever_looks(
    project: Project, forked: ForkServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(forked, dying.night, project, FIRST, "adapt", "before")
    (running,) = project.warehouse.rows("SELECT outcome FROM metarisk.attempt WHERE job = 'night'")
    assert running == {"outcome": "running"}
    monkeypatch.setenv("METARISK_PROJECT", str(project.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", project.settings.warehouse.get_secret_value())
    told = CliRunner().invoke(app, ["runs", "--json"])
    assert [row["outcome"] for row in json.loads(told.output)["attempts"] if row["job"] == "night"] == ["died"]
    (dead,) = attempts(project)
    assert (dead["outcome"], dead["step"]) == ("died", None)
    assert "ended without a word: killed, out of memory, or without power. Remedy" in dead["error"]
    found = standing(project)
    assert (found.status, found.row["last_outcome"]) == ("red", "died")
    (bad,) = [one for one in health.examine(project.settings, FIRST) if one.subject == "status of tiny"]
    assert "died" in bad.what
    assert bad.remedy


def test_the_next_attempt_tells_who_died_and_a_second_death_is_another(
    duckdb: Project, forked: ForkServerContext
) -> None:
    kill(forked, dying.night, duckdb, FIRST, "adapt", "before")
    kill(forked, dying.night, duckdb, FIRST, "score", "before")
    listener = Listener()
    jobs.nightly(duckdb.context(FIRST, reporter=listener))
    assert [row["outcome"] for row in attempts(duckdb)] == ["died", "died", "published"]
    assert len([line for line in listener.warnings if "died" in line]) == 1


def test_a_night_that_runs_is_not_dead(project: Project, forked: ForkServerContext) -> None:
    here, there = Pipe()
    process = forked.Process(target=dying.hold, args=(project, FIRST, there))
    process.start()
    assert here.recv() == "holding"
    assert standing(project).row["last_outcome"] == "running"
    here.send("go on")
    assert here.recv() == "published"
    process.join()
    assert [row["outcome"] for row in attempts(project)] == ["published"]


@ON_DUCKDB
def test_a_week_is_told_as_a_week(project: Project, forked: ForkServerContext) -> None:
    (week,) = project.warehouse.rows("SELECT job, mode, outcome, step FROM metarisk.attempt")
    assert week == {"job": "week", "mode": "weekly", "outcome": "registered", "step": "register"}
    project.load(tiny.book().with_columns(event_date=pl.lit(None, pl.Date), known_date=pl.lit(None, pl.Date)))
    with pytest.raises(ModelError, match="teach nothing"):  # by a clock that goes on: the last attempt counts
        jobs.weekly(replace(project.context(SECOND), clock=jobs.utc_now))
    (failed,) = attempts(project)
    assert (failed["job"], failed["mode"], failed["outcome"], failed["step"]) == ("week", "weekly", "failed", "judge")
    assert f"the last week ({SECOND}) failed in step judge" in standing(project).reason
    (page,) = project.settings.data_dir.glob(f"reports/*/week-{SECOND}-failed.html")
    project.load(tiny.book())
    project.weekly(SECOND)
    assert not page.exists()
    kill(forked, dying.week, project, FIRST, "judge", "before")
    standing(project)
    assert [row["outcome"] for row in attempts(project)] == ["died", "failed", "registered"]


@ON_DUCKDB
def test_a_book_younger_than_its_horizon_has_a_model_or_a_remedy(make: Callable[..., Project]) -> None:
    """No row is mature, yet events are known: what is at risk teaches the hazard, and nothing can be judged."""
    book = tiny.book(1_500)
    opened = book["opened_on"].max()
    assert isinstance(opened, tiny.date)
    young = book.filter(pl.col("opened_on") > opened - tiny.timedelta(days=330))
    project = make(frame=young)
    assert project.weekly(opened).promoted
    assert project.nightly(opened).outcome == "published"
    assert [row["outcome"] for row in attempts(project)] == ["published", "registered"]
    project.edit("portfolios/tiny.toml", 'risk = "credit"', 'risk = "credit"\nlearner = { name = "pooled_logistic" }')
    with pytest.raises(
        ModelError, match=r"0 matured rows with 0 events .* teach nothing.*Remedy: .*wait until more rows"
    ):
        project.weekly(opened)
    for few in (young.head(1), young.filter(pl.col("event_date").is_null())):
        project.load(few)
        with pytest.raises(MetariskError, match="Remedy"):
            project.weekly(opened)
    assert NAME in str(standing(project))
