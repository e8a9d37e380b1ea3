"""Old nights leave, whole and logged; what a kept night is read or replayed from stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from duckdb import connect
from pydantic import SecretStr
from typer.testing import CliRunner

from metarisk import jobs, lake
from metarisk.answers import drift as showing
from metarisk.answers import explain as explaining
from metarisk.answers import replay as reproducing
from metarisk.answers import why
from metarisk.cli import app
from metarisk.domain import ConfigError, DataError, Derived, ModelError, Scalar
from metarisk.job import archive as archiving
from metarisk.jobs import Context
from metarisk.record import events
from metarisk.record.scores import last_adaptations
from metarisk.upkeep import audit
from metarisk.upkeep import forget as forgetting
from metarisk.upkeep import prune as pruning
from metarisk.upkeep.feedback import give_feedback
from tests.end_to_end import dying
from tests.end_to_end.conftest import ON_DUCKDB, Own
from tests.end_to_end.test_kills import kill
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Project, book, differences

THIRD, FOURTH, FIFTH = (date(2026, 7, day) for day in (1, 2, 3))
NIGHTS = (FIRST, SECOND, THIRD, FOURTH, FIFTH)


@pytest.fixture
def nights(kind: str, own: Own) -> Project:
    """Nights of 29 and 30 June (a month end) and 1 July, the last by a newer model."""
    return own(kind, "month_end")


def test_old_nights_go_to_the_archive_and_month_ends_stay(nights: Project) -> None:
    context = nights.context(THIRD)
    first, kept = nights.scores(FIRST), (nights.scores(SECOND), nights.scores(THIRD))
    would = pruning.prune(context, 1, dry_run=True)
    assert nights.scores(FIRST).equals(first)
    done = pruning.prune(context, 1)
    assert done == would
    assert (done.cut, done.rows["risk_score"], done.models) == (SECOND, first.height, ())
    assert done.nights == (CUT_OFF, FIRST, SECOND)
    assert nights.scores(FIRST).is_empty()
    assert nights.scores(SECOND).equals(kept[0])
    assert nights.scores(THIRD).equals(kept[1])
    (run,) = done.runs
    stored = pl.read_parquet(archiving.folder_of(context, run, FIRST) / "scores.parquet").sort("entity")
    assert stored.select(first.columns).equals(first)
    assert audit.verify(context, every_night=True).faults == ()
    (last,) = nights.warehouse.rows("SELECT run_id FROM metarisk.night WHERE as_of = $as_of", {"as_of": THIRD})
    replayed = reproducing.reproduce(context, last["run_id"])
    assert (replayed.identical, replayed.differences) == (True, ())
    again = pruning.prune(context, 1)
    assert (again.runs, again.nights, again.freed) == ((), (), 0)
    assert nights.nightly(THIRD).outcome == "already_published"
    assert nights.nightly(FOURTH).outcome == "published"


@pytest.fixture
def days(kind: str, own: Own) -> Project:
    """Five nights from 29 June to 3 July."""
    return own(kind, "days")


def rows(project: Project, table: str, as_of: date) -> list[dict[str, Any]]:
    """Rows of a night in a table, in some order that is always the same."""
    found = project.warehouse.rows(f"SELECT * FROM metarisk.{table} WHERE as_of = $as_of", {"as_of": as_of})
    return sorted(found, key=repr)


def run_of(project: Project, as_of: date) -> str:
    (row,) = project.warehouse.rows("SELECT run_id FROM metarisk.run WHERE as_of = $as_of", {"as_of": as_of})
    return str(row["run_id"])


def archived(project: Project, table: str, as_of: date) -> list[dict[str, Any]]:
    folder = archiving.folder_of(project.context(as_of), run_of(project, as_of), as_of)
    return sorted(pl.read_parquet(folder / archiving.file_of(table)).to_dicts(), key=repr)


def whole(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["segment"] is None]


def views(project: Project) -> dict[str, list[dict[str, Any]]]:
    """What BI reads of segments and of the whole portfolio over the nights."""
    asked = {
        "segment_health": "TRUE",
        "segment_status": "TRUE",
        "drift_history": "segment IS NULL",
        "score_move": "segment IS NULL",
        "measure_history": "segment IS NULL",
        "night": "TRUE",
    }
    return {
        view: sorted(project.warehouse.rows(f"SELECT * FROM metarisk.{view} WHERE {where}"), key=repr)
        for view, where in asked.items()
    }


def test_every_table_of_old_nights_goes_and_what_is_read_across_nights_stays(days: Project) -> None:
    context = days.context(FIFTH)
    before = {(table, as_of): rows(days, table, as_of) for table in pruning.LEAVING for as_of in NIGHTS}
    assert all(before[table, FIRST] for table in pruning.LEAVING if table not in {"measure", "score_move_part"})
    assert len(before["score_move_part", THIRD]) > len(whole(before["score_move_part", THIRD])) > 0
    seen, last = views(days), last_adaptations(days.warehouse, NAME, FIFTH, None)
    would = pruning.prune(context, 1, dry_run=True)
    assert {key: rows(days, *key) for key in before} == before
    done = pruning.prune(context, 1)
    assert (done, done.runs) == (would, tuple(run_of(days, as_of) for as_of in (FIRST, THIRD, FOURTH)))
    for table in pruning.LEAVING:
        for as_of in (FIRST, THIRD, FOURTH):
            assert archived(days, table, as_of) == before[table, as_of], (table, as_of)
        for as_of in (SECOND, FIFTH):  # a month end, and the newest night
            assert rows(days, table, as_of) == before[table, as_of], (table, as_of)
    left = {key: rows(days, *key) for key in before}
    for as_of in (FIRST, THIRD, FOURTH):
        assert left["risk_score", as_of] == left["quality_result", as_of] == []
        assert left["score_move_part", as_of] == whole(before["score_move_part", as_of])
    # The first kept night, done again, sees the adaptations of the night before it; alerts close after three nights.
    assert [len(left["adaptation", as_of]) for as_of in (FIRST, THIRD, FOURTH)] == [0, 0, 6]
    assert left["drift_metric", FIRST] == whole(before["drift_metric", FIRST]) != before["drift_metric", FIRST]
    assert all(left["drift_metric", as_of] == before["drift_metric", as_of] for as_of in (THIRD, FOURTH))
    assert last_adaptations(days.warehouse, NAME, FIFTH, None) == last != {}
    assert views(days) == seen
    assert audit.verify(context, every_night=True).faults == ()
    assert pruning.prune(context, 1).runs == ()
    # What may leave later does, from an archive that has it already.
    night = FIFTH + timedelta(days=1)
    assert days.nightly(night).outcome == "published"
    later = pruning.prune(days.context(night), 1)
    assert later.runs == tuple(run_of(days, as_of) for as_of in (THIRD, FOURTH, FIFTH))
    assert rows(days, "drift_metric", THIRD) == whole(before["drift_metric", THIRD])
    assert rows(days, "adaptation", FOURTH) == []
    assert archived(days, "drift_metric", THIRD) == before["drift_metric", THIRD]
    assert audit.verify(days.context(night), every_night=True).faults == ()
    snapshot_is_of_now(days)


def snapshot_is_of_now(project: Project) -> None:
    """The file that BI reads has the rows of the warehouse, of tables that lost some too."""
    if project.warehouse.dialect != "duckdb":
        return
    with connect(project.settings.data_dir / "warehouse-bi.duckdb", read_only=True) as connection:
        for table in ("adaptation", "drift_metric", "quality_result", "event_log"):
            (found,) = connection.execute(f"SELECT count(*) FROM metarisk.{table}").fetchall()
            assert found == (project.count(table),), table


def test_a_segment_that_left_the_book_stays_as_it_was_last(project: Project) -> None:
    frame = book()
    project.nightly(FIRST)
    project.load(frame.filter(pl.col("region") != "west"))
    for as_of in (SECOND, THIRD, FOURTH):
        project.nightly(as_of)
    seen = views(project)["segment_health"]
    assert {row["last_as_of"] for row in seen if row["segment"] == "west|cash"} == {FIRST}
    pruning.prune(project.context(FOURTH), 1)
    assert [row["segment"] for row in rows(project, "adaptation", FIRST)] == ["west|cash"]
    assert views(project)["segment_health"] == seen


@ON_DUCKDB
def test_what_remains_and_what_is_archived_is_audited(nights: Project) -> None:
    context = nights.context(THIRD)
    (run,) = pruning.prune(context, 1).runs

    def faults() -> list[str]:
        return [fault.what for fault in audit.verify(context, every_night=True).faults]

    assert faults() == []
    with nights.warehouse.transaction() as transaction:
        transaction.execute(
            "UPDATE metarisk.drift_metric SET value = 0.5 WHERE run_id = $run AND segment IS NULL AND metric = 'psi'",
            {"run": run},
        )
    assert faults() == [f"rows of drift_metric of run {run} are not those that were left when it was pruned"]
    folder = archiving.folder_of(context, run, FIRST)
    path = folder / "adaptation.parquet"
    pl.read_parquet(path).with_columns(status=pl.lit("carried")).write_parquet(path)
    assert any(f"the archive of run {run} is not whole" in what for what in faults())
    lake.write_manifest(folder, {"run_id": run})
    assert f"the archive of run {run} is not what the log says" in faults()
    shutil.rmtree(folder)
    assert any(f"the archive of run {run} is not whole" in what for what in faults())


@ON_DUCKDB
def test_changed_rows_are_not_archived(nights: Project) -> None:
    with nights.warehouse.transaction() as transaction:
        transaction.execute("UPDATE metarisk.adaptation SET support_rows = 1 WHERE as_of = $on", {"on": FIRST})
    first = nights.scores(FIRST)
    with pytest.raises(DataError, match=r"rows of adaptation of run .* to archive them would hide it.*audit verify"):
        pruning.prune(nights.context(THIRD), 1)
    assert nights.scores(FIRST).equals(first)


def prune_as_before(project: Project, as_of: date) -> str:
    """What an earlier version did with a run: its score rows alone left, and its event seals nothing."""
    context, run = project.context(as_of), run_of(project, as_of)
    folder = archiving.folder_of(context, run, as_of)
    with lake.staged(folder) as into:
        pl.DataFrame(rows(project, "risk_score", as_of), infer_schema_length=None).write_parquet(
            into / "scores.parquet"
        )
        lake.write_manifest(into, {"run_id": run})
    with project.warehouse.transaction() as transaction:
        about: dict[str, Scalar] = {"run_id": run, "as_of": as_of}
        transaction.execute("DELETE FROM metarisk.risk_score WHERE run_id = $run_id AND as_of = $as_of", about)
        told = about | {"files": lake.verify(folder)["files"]}
        events.append_event(transaction, context.job.portfolio, context.clock(), "pruned", told)
    return run


@ON_DUCKDB
def test_a_night_that_an_earlier_version_archived_is_finished(nights: Project) -> None:
    context = nights.context(THIRD)
    before = {table: rows(nights, table, FIRST) for table in pruning.LEAVING}
    run = prune_as_before(nights, FIRST)
    scores = archiving.folder_of(context, run, FIRST) / "scores.parquet"
    told = scores.read_bytes()
    assert audit.verify(context, every_night=True).faults == ()
    done = pruning.prune(context, 1)
    assert (done.runs, done.rows) == ((run,), {"adaptation": 6, "quality_result": len(before["quality_result"])})
    assert scores.read_bytes() == told
    assert {table: archived(nights, table, FIRST) for table in before} == before
    assert audit.verify(context, every_night=True).faults == ()
    # An erasure renames in all that is archived, and the archive stays what the log says.
    gone = before["risk_score"][3]["entity"]
    forgetting.forget(context, gone, "D. Officer", "request 4711")
    assert gone not in {row["entity"] for row in archived(nights, "risk_score", FIRST)}
    assert audit.verify(context, every_night=True).faults == ()


@ON_DUCKDB
def test_an_archive_of_which_the_log_knows_nothing_is_not_written_over(nights: Project) -> None:
    run = prune_as_before(nights, FIRST)
    with nights.warehouse.transaction() as transaction:
        transaction.execute("UPDATE metarisk.event_log SET hash = NULL WHERE kind = 'pruned'")
    scores = archiving.folder_of(nights.context(FIRST), run, FIRST) / "scores.parquet"
    told = scores.read_bytes()
    with pytest.raises(DataError, match="has more rows than the warehouse"):
        pruning.prune(nights.context(THIRD), 1)
    assert scores.read_bytes() == told


@ON_DUCKDB
def test_a_pruned_night_says_so(nights: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    entity = nights.scores(FIRST)["entity"][0]
    (run,) = pruning.prune(nights.context(THIRD), 1).runs
    first, second = nights.context(FIRST), nights.context(SECOND)
    left, gone = "its files have left the lake", r"left the warehouse.*read .*{}.*or ask for a night that is kept"
    for ask, said in (
        (lambda: explaining.explain(first, entity), gone.format("scores.parquet")),
        (lambda: explaining.explain(second, entity), left),  # a month end: its scores are there
        (lambda: why.why(second, FIRST), left),
        (lambda: why.why_entity(second, FIRST, entity), left),
        (lambda: reproducing.reproduce(first, run), left),
    ):
        with pytest.raises(DataError, match=f"the night was pruned: .*{said}"):
            ask()
    monkeypatch.setenv("METARISK_PROJECT", str(nights.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", nights.settings.warehouse.get_secret_value())
    attempts = json.loads(CliRunner().invoke(app, ["runs", "--portfolio", NAME, "--json"]).output)["attempts"]
    assert {row["as_of"]: row["pruned"] for row in attempts if row["job"] == "night"} == {
        str(FIRST): True,
        str(SECOND): False,
        str(THIRD): False,
    }
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["runs", "--portfolio", NAME]).output
    assert "published, pruned" in shown
    assert "are in the archive" in shown


@ON_DUCKDB
def test_a_pruned_run_is_not_published_again_without_its_rows(nights: Project) -> None:
    nights.load(book().with_columns(pl.col("amount") * 1.2))
    nights.nightly(FIRST, "restatement", "wrong unit")
    assert len(pruning.prune(nights.context(THIRD), 1).runs) == 2
    nights.load(book())
    with pytest.raises(DataError, match="was published before and pruned since"):
        nights.nightly(FIRST, "restatement", "it was right")
    assert audit.verify(nights.context(THIRD), every_night=True).faults == ()


def test_a_verdict_may_be_of_a_night_whose_scores_were_pruned(nights: Project, tmp_path: Path) -> None:
    entity = nights.scores(FIRST)["entity"][0]
    pruning.prune(nights.context(THIRD), 1)
    file = tmp_path / "verdicts.csv"
    file.write_text(f"entity,verdict,decided_on\n{entity},confirmed,{FIRST}\n")
    assert give_feedback(nights.context(THIRD), file, "ann").confirmed == 1
    file.write_text(f"entity,verdict,decided_on\n{entity},cleared,{FIRST - timedelta(1)}\n")
    with pytest.raises(DataError, match="was decided before it was scored"):
        give_feedback(nights.context(THIRD), file, "ann")


def test_drift_of_a_pruned_night_says_so(published: Project) -> None:
    published.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nalert_close_nights = 2\n\n[validation]")
    for as_of in (SECOND, THIRD):
        published.nightly(as_of)
    assert showing.feature(published.context(FIRST), "amount", None)["findings"]
    assert "drift_metric" in pruning.prune(published.context(THIRD), 1).rows
    with pytest.raises(DataError, match=r"the night was pruned: its rows of drift_metric.*drift_metric.parquet"):
        showing.worst(published.context(FIRST))
    with pytest.raises(DataError, match="the night was pruned"):
        showing.feature(published.context(FIRST), "amount", None)


def test_killed_at_every_step_and_run_again(nights: Project, forked: ForkServerContext, tmp_path: Path) -> None:
    def remains(project: Project) -> tuple[dict[str, list[str]], dict[str, bytes]]:
        data = project.settings.data_dir
        files = [
            path for tree in ("archive", "lake", "registry") for path in (data / tree).rglob("*") if path.is_file()
        ]
        return project.contents(), {str(path.relative_to(data)): path.read_bytes() for path in files}

    before = nights.contents()
    for death in dying.PRUNE_DEATHS:
        kill(forked, dying.pruned, nights, THIRD, death)
        if death != "folders leave the lake":
            assert differences(nights.contents(), before) == []
    pruning.prune(nights.context(THIRD), 1)
    found, files = remains(nights)
    assert [name for name in files if ".scratch" in name or ".rewritten" in name] == []
    assert not (nights.settings.data_dir / "lake" / NAME / str(FIRST)).exists()
    assert {table: archived(nights, table, FIRST) for table in pruning.LEAVING}.keys() == pruning.LEAVING.keys()
    kinds = [row["kind"] for row in nights.warehouse.rows("SELECT kind FROM metarisk.event_log ORDER BY seq")]
    assert (kinds.count("pruned"), kinds.count("pruned_files")) == (1, 1)
    assert audit.verify(nights.context(THIRD), every_night=True).faults == ()
    pruning.prune(nights.context(THIRD), 1)
    again, same = remains(nights)
    assert differences(again, found) == []
    assert same == files
    assert nights.nightly(FOURTH).outcome == "published"


def test_scores_stay_that_a_kept_night_derives_from(nights: Project) -> None:
    context = nights.context(THIRD)
    assert pruning.prune(context, 1, dry_run=True).rows["risk_score"]
    horizon, spec = context.portfolio.target.matures_in, context.spec
    for days, kept in ((1, False), (2, True)):
        looking = nights.context(THIRD)
        back = timedelta(days=days) - horizon
        looking.__dict__["spec"] = replace(spec, derive=lambda _view: Derived(), look_back=back)
        assert ("risk_score" not in pruning.prune(looking, 1, dry_run=True).rows) == kept
        assert pruning.prune(looking, 1, dry_run=True).nights == (CUT_OFF, FIRST, SECOND)


def test_measures_leave_before_the_scores_that_later_nights_derive_from(duckdb: Project) -> None:
    lines = pl.DataFrame(
        {
            "kind": "k",
            "item": ["all", "one", "two"],
            "segment": [None, "north|auto", "east|auto"],
            "metric": "m",
            "value": 1.5,
        }
    )

    def deriving(as_of: date) -> Context:
        context = duckdb.context(as_of)
        back = timedelta(days=5) - context.portfolio.target.matures_in
        spec = replace(context.spec, derive=lambda _view: Derived(measures=lines), look_back=back)
        context.__dict__["spec"] = spec
        return context

    for as_of in (FIRST, SECOND, THIRD):
        jobs.nightly(deriving(as_of))
    scores, measures, seen = duckdb.scores(FIRST), rows(duckdb, "measure", FIRST), views(duckdb)["measure_history"]
    assert (len(measures), len(seen)) == (3, 3)
    done = pruning.prune(deriving(THIRD), 1)
    assert (done.rows["measure"], "risk_score" in done.rows) == (2, False)
    assert duckdb.scores(FIRST).equals(scores)
    assert rows(duckdb, "measure", FIRST) == whole(measures)
    assert views(duckdb)["measure_history"] == seen
    assert audit.verify(duckdb.context(THIRD), every_night=True).faults == ()
    assert len(archived(duckdb, "risk_score", FIRST)) == scores.height
    later = pruning.prune(duckdb.context(THIRD), 1)
    assert later.rows == {"risk_score": scores.height}
    assert archived(duckdb, "measure", FIRST) == measures
    assert audit.verify(duckdb.context(THIRD), every_night=True).faults == ()


def test_models_that_nobody_needs_go_here_and_in_the_copy(published: Project, tmp_path: Path) -> None:
    uri = SecretStr((tmp_path / "copy").as_uri())
    published = replace(published, settings=published.settings.model_copy(update={"lake": uri}))
    for week in (7, 14, 21):
        published.weekly(CUT_OFF + timedelta(days=week))
    last = CUT_OFF + timedelta(days=22)
    published.nightly(last)
    registry = published.settings.data_dir / "registry" / NAME
    copy = tmp_path / "copy" / "registry" / NAME
    assert (len(list(registry.iterdir())), len(list(copy.iterdir()))) == (4, 3)  # the first is older than the copy
    done = pruning.prune(published.context(last), 3)
    assert len(done.models) == 2
    left = {folder.name for folder in registry.iterdir() if not folder.name.startswith(".")}
    assert len(left) == 2
    assert {folder.name for folder in copy.iterdir()} == left
    assert published.nightly(last + timedelta(days=1)).outcome == "published"
    # a night of then can be published again as soon as its week has made the model again
    with pytest.raises(ModelError, match=rf"pruned, or lost.*metarisk weekly --portfolio tiny --as-of {CUT_OFF}"):
        published.nightly(FIRST, "restatement", "late file")


def test_nothing_is_kept_of_no_days(published: Project) -> None:
    with pytest.raises(ConfigError, match=r"0 days are to be kept.*keep one day at least"):
        pruning.prune(published.context(FIRST), 0)
