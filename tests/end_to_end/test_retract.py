"""A published night is taken back: readers get the night before, nothing rests on it, what was known stays known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from duckdb import connect
from typer.testing import CliRunner, Result

from metarisk import jobs
from metarisk.answers import explain as explaining
from metarisk.answers import replay as reproducing
from metarisk.answers import why
from metarisk.cli import app
from metarisk.domain import ConfigError, DataError, LockedError, Scalar
from metarisk.record import publications, scores
from metarisk.steps.derive import published_scores
from metarisk.upkeep import audit
from metarisk.upkeep import forget as forgetting
from metarisk.upkeep import prune as pruning
from metarisk.upkeep import retract as retracting
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.end_to_end import dying, tiny
from tests.end_to_end.conftest import Grown, NewDatabase, Own
from tests.end_to_end.test_kills import kill
from tests.end_to_end.tiny import FIRST, NAME, SECOND, Listener, Project, book, differences

THIRD, FOURTH = SECOND + timedelta(days=1), SECOND + timedelta(days=2)
BY, WHY = "Ann Officer", "wrong file"
KNOWN = "SELECT DISTINCT as_of, seq, run_id, known_from, known_to FROM metarisk.score_as_known ORDER BY as_of, seq"
TOLD = "SELECT entity, opened_on, event_date, value FROM metarisk.outcome_current WHERE value > 0 ORDER BY entity"


@pytest.fixture
def nights(kind: str, own: Own) -> Project:
    """Nights of 29 and 30 June (a month end) and 1 July."""
    return own(kind, "month_end")


def take_back(project: Project, as_of: date, reason: str = WHY) -> retracting.Retracted:
    return jobs.retract(project.context(as_of), BY, reason)


def latest(project: Project) -> set[date]:
    """The night that readers have: in the warehouse and, where there is one, in the file for BI."""
    sql = "SELECT DISTINCT as_of FROM metarisk.score_current"
    found = {row["as_of"] for row in project.warehouse.rows(sql)}
    if isinstance(project.warehouse, DuckDBWarehouse):
        with connect(project.settings.data_dir / "warehouse-bi.duckdb", read_only=True) as connection:
            assert {row[0] for row in connection.execute(sql).fetchall()} == found
    return found


def statuses(project: Project, as_of: date) -> list[tuple[Any, ...]]:
    sql = "SELECT seq, run_id, is_current, status FROM metarisk.night WHERE as_of = $as_of ORDER BY seq"
    return [tuple(row.values()) for row in project.warehouse.rows(sql, {"as_of": as_of})]


def test_readers_get_the_night_before_and_the_run_may_come_back(
    nights: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARISK_PROJECT", str(nights.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", nights.settings.warehouse.get_secret_value())

    def call(*words: str) -> Result:
        return CliRunner().invoke(app, [*words])

    def retract(*words: str) -> dict[str, Any]:
        done = call("retract", NAME, str(THIRD), "--by", BY, "--reason", *words, "--json")
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    told, scores = nights.warehouse.rows(TOLD), nights.scores(THIRD)
    (run,) = (row[1] for row in statuses(nights, THIRD))
    found = retract(WHY)
    assert (found["run_id"], found["by"], found["latest"], found["already"]) == (run, BY, str(SECOND), False)
    assert latest(nights) == {SECOND}
    assert nights.scores(THIRD).is_empty()
    assert statuses(nights, THIRD) == [(1, run, False, "retracted"), (2, None, False, "retracted")]
    (known,) = (row for row in nights.warehouse.rows(KNOWN) if row["as_of"] == THIRD)
    (taken,) = nights.warehouse.rows("SELECT * FROM metarisk.retracted_run")
    assert known["known_to"] == taken["retracted_at"]
    assert audit.verify(nights.context(THIRD), every_night=True).faults == ()
    once = nights.contents()
    again = retract("another reason")
    assert (again["already"], again["reason"]) == (True, WHY)
    assert differences(nights.contents(), once) == []

    page = json.loads(call("report", "-p", NAME, "--json").stdout)["page"]
    assert page.endswith(f"{THIRD}-retracted.html")
    text = re.sub("<[^>]+>", "", (nights.settings.data_dir / "reports" / NAME / f"{THIRD}-retracted.html").read_text())
    assert f"Taken back by {BY}: {WHY}" in text
    assert f"readers keep the night of {SECOND}" in text

    assert jobs.due(nights.context(THIRD)) == []
    refused = call("nightly", "-p", NAME, "--as-of", str(THIRD))
    assert refused.exit_code == 1
    assert re.search(rf"was retracted at .*: {WHY}\. Remedy: publish it again.*--restate WHY", refused.stderr)
    with pytest.raises(ConfigError, match="was retracted"):
        nights.nightly(THIRD, "restatement", " ")
    shown = call("runs", "-p", NAME, "--json")
    assert {row["run_id"] for row in json.loads(shown.stdout)["attempts"] if row["retracted"]} == {run}

    back = nights.nightly(THIRD, "restatement", "the file was right")
    assert (back.outcome, back.run_id) == ("published", run)
    assert statuses(nights, THIRD) == [
        (1, run, False, "green"), (2, None, False, "retracted"), (3, run, True, "green")
    ]  # fmt: skip
    assert nights.scores(THIRD).equals(scores)
    assert nights.warehouse.rows(TOLD) == told
    assert latest(nights) == {THIRD}
    assert nights.warehouse.rows("SELECT * FROM metarisk.retracted_run") == []
    assert json.loads(call("report", "-p", NAME, "--json").stdout)["page"] == str(back.page)
    assert audit.verify(nights.context(THIRD), every_night=True).faults == ()


def june_ends(project: Project) -> list[date]:
    """Nights of June that back-tests read."""
    found = publications.month_ends(project.warehouse, NAME, date(2026, 6, 1), date(2026, 6, 30), bitemporal=False)
    return [row["as_of"] for row in found]


def test_nothing_rests_on_a_night_that_was_taken_back(nights: Project) -> None:
    context = nights.context(THIRD)
    told, runs = nights.warehouse.rows(TOLD), {row["as_of"]: row["run_id"] for row in nights.warehouse.rows(KNOWN)}
    assert june_ends(nights) == [SECOND]
    take_back(nights, SECOND)  # in the middle
    assert latest(nights) == {THIRD}
    assert nights.warehouse.rows(TOLD) == told  # the night after it has confirmed what it told
    assert june_ends(nights) == [FIRST]
    assert publications.last_night(context.warehouse, NAME, THIRD) == FIRST
    sql = "SELECT segment, adaptation_id FROM metarisk.adaptation WHERE run_id = $run_id"
    before = {row["segment"]: row["adaptation_id"] for row in nights.warehouse.rows(sql, {"run_id": runs[FIRST]})}
    assert scores.last_adaptations(context.warehouse, NAME, context.job.as_of, None) == before
    (at,) = nights.warehouse.rows("SELECT retracted_at AS at FROM metarisk.retracted_run")
    as_known = {
        moment: set(published_scores(context, moment)["as_of"])
        for moment in (at["at"], at["at"] - timedelta(microseconds=1))
    }
    assert list(as_known.values()) == [{FIRST}, {FIRST, SECOND}]
    assert jobs.due(context) == []
    for answer in (
        lambda: why.why(context, SECOND),
        lambda: explaining.explain(nights.context(SECOND), nights.scores(THIRD)["entity"][0]),
    ):
        with pytest.raises(DataError, match=f"as of {SECOND}: the night was retracted at .*--as-of {SECOND} --restate"):
            answer()
    # A run is done again as it was, whatever was taken back since, and so is the run that was taken back.
    for as_of, changed in ((THIRD, 0), (SECOND, 1)):
        again = reproducing.reproduce(context, runs[as_of])
        assert (again.identical, again.differences, len(again.changed)) == (True, (), changed)
    assert f": {WHY}; no reader sees this run" in again.changed[0]

    listener = Listener()
    done = jobs.backfill(nights.context(FOURTH, reporter=listener), FIRST, train=False)
    assert [night.outcome for night in done.nights] == [
        "already_published", "retracted", "already_published", "published"
    ]  # fmt: skip
    assert [line for line in listener.warnings if line.startswith(f"{NAME} {SECOND} is left alone: the night was retr")]
    take_back(nights, FOURTH)
    take_back(nights, THIRD)
    assert nights.warehouse.rows(
        "SELECT DISTINCT as_of, age_days FROM (SELECT last_as_of AS as_of, age_days FROM metarisk.segment_health) AS h"
    ) == [{"as_of": FIRST, "age_days": 0}]
    assert pruning.prune(context, 1, dry_run=True).cut == FIRST - timedelta(days=1)
    # Another run of a date that was taken back: the one before it does not prove anything, nor come back.
    nights.load(book().with_columns(pl.col("amount").abs()))
    assert nights.nightly(SECOND, "restatement", "the right file").run_id != runs[SECOND]
    assert june_ends(nights) == [FIRST]
    assert latest(nights) == {SECOND}
    assert audit.verify(context, every_night=True).faults == ()


def test_what_a_night_told_of_outcomes_goes_with_it(published: Project) -> None:
    project = published
    before = project.warehouse.rows(TOLD)
    late = pl.col("event_date").is_between(SECOND - timedelta(days=400), SECOND)
    wrong = book().with_columns(
        event_date=pl.when(late).then(pl.col("event_date") - timedelta(days=1)).otherwise("event_date")
    )
    project.load(wrong)
    run = project.nightly(SECOND).run_id
    moved = project.warehouse.rows(TOLD)
    assert moved != before
    take_back(project, SECOND)
    assert project.warehouse.rows(TOLD) == before
    assert project.nightly(SECOND, "restatement", "it was right").run_id == run
    assert project.warehouse.rows(TOLD) == moved
    take_back(project, SECOND)
    project.load(book())
    project.nightly(THIRD)
    assert {row["entity"] for row in project.warehouse.rows(TOLD)} >= {row["entity"] for row in before}
    assert audit.verify(project.context(THIRD)).faults == ()


def test_the_first_night_is_taken_back(published: Project) -> None:
    project = published
    found = take_back(project, FIRST)
    assert (found.latest, latest(project), project.warehouse.rows(TOLD)) == (None, set(), [])
    assert jobs.due(project.context(FIRST)) == []
    assert jobs.due(project.context(SECOND)) == [SECOND]
    assert project.nightly(SECOND).outcome == "published"
    assert project.warehouse.rows("SELECT * FROM metarisk.score_move") == []
    # An erasure reaches what was taken back.
    entity = project.scores(SECOND)["entity"][3]
    forgetting.forget(project.context(SECOND), entity, BY, "request 4711")
    sql = "SELECT count(*) AS n FROM metarisk.risk_score WHERE entity = $entity"
    assert project.warehouse.rows(sql, {"entity": entity}) == [{"n": 0}]
    assert audit.verify(project.context(SECOND), every_night=True).faults == ()


def test_what_cannot_be_taken_back_is_told(published: Project) -> None:
    for as_of, portfolio, said in (
        (SECOND, NAME, f"as of {SECOND}: no night of this date is published"),
        (FIRST, "tniy", "tniy"),
    ):
        context = published.context(as_of)
        with pytest.raises((DataError, ConfigError), match=said):
            jobs.retract(replace(context, job=replace(context.job, portfolio=portfolio)), BY, WHY)
    for by, reason in ((" ", WHY), (BY, "")):
        with pytest.raises(ConfigError, match="nothing says wh"):
            jobs.retract(published.context(FIRST), by, reason)
    with published.warehouse.lock(NAME), pytest.raises(LockedError):
        take_back(published, FIRST)
    assert published.count("publication") == 1


def test_an_attempt_of_before_is_no_start_for_a_night_after_it(published: Project) -> None:
    published.nightly(SECOND)

    def stopping(step: Any, context: Any, *inputs: object) -> Any:
        if step.__name__ == "guard":
            raise DataError("stopped", remedy="try again")
        return jobs.direct(step, context, *inputs)

    with pytest.raises(DataError, match="stopped"):
        jobs.nightly(published.context(THIRD), stopping)
    take_back(published, SECOND)
    run = published.nightly(THIRD).run_id
    again = reproducing.reproduce(published.context(THIRD), run)
    assert (again.identical, again.differences) == (True, ())


CHANGES = {
    "the retraction gone": (
        "DELETE FROM metarisk.publication WHERE run_id IS NULL",
        "the retraction for .* is not as it",
    ),
    "its reason": ("UPDATE metarisk.publication SET reason = 'other' WHERE run_id IS NULL", "the retraction for"),
    "the night brought back": (
        "INSERT INTO metarisk.publication SELECT portfolio, as_of, 3, $run, published_at + INTERVAL '1 second', reason "
        "FROM metarisk.publication WHERE seq = 2",
        "the log knows no publication of run",
    ),
    "another retraction": (
        "INSERT INTO metarisk.publication SELECT portfolio, as_of, 3, NULL, published_at + INTERVAL '1 second', reason "
        "FROM metarisk.publication WHERE seq = 2",
        "the log knows no retraction for",
    ),
}


def test_a_retraction_that_somebody_changes_is_found(published: Project) -> None:
    run: dict[str, Scalar] = {"run": take_back(published, FIRST).run_id}
    copy = published.warehouse.rows("SELECT * FROM metarisk.publication")
    for sql, said in CHANGES.values():
        with published.warehouse.transaction() as transaction:
            transaction.execute(sql, run)
        (fault,) = audit.verify(published.context(FIRST)).faults
        assert re.search(said, fault.what)
        with published.warehouse.transaction() as transaction:
            transaction.execute("DELETE FROM metarisk.publication")
            for row in copy:
                names = ", ".join(row)
                values = ", ".join(f"${name}" for name in row)
                transaction.execute(f"INSERT INTO metarisk.publication ({names}) VALUES ({values})", row)
    assert audit.verify(published.context(FIRST)).faults == ()


@pytest.mark.parametrize("death", dying.RETRACT_DEATHS)
def test_killed_and_run_again(
    death: str,
    published_project: Project,
    grown: Grown,
    database: NewDatabase,
    tmp_path: Path,
    forked: ForkServerContext,
) -> None:
    project = published_project
    if "BI" in death and project.warehouse.dialect == "postgresql":
        pytest.skip("only DuckDB has such a file")
    before = project.contents()
    kill(forked, dying.retraction, project, FIRST, death)
    done = death in ("the file for BI is built", "the page is written")
    assert (differences(project.contents(), before) != []) == done
    found = take_back(project, FIRST)
    assert (found.already, found.page is not None) == (done, True)
    assert latest(project) == set()
    whole, template = grown(project.warehouse.dialect, "published")
    untouched = tiny.copy(whole, tmp_path / "untouched", database(project.warehouse.dialect, template)[0])
    take_back(untouched, FIRST)
    assert differences(project.contents(), untouched.contents()) == []
