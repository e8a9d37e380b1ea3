"""An entity is erased: its name is nowhere, its published rows have a pseudonym, and all others are as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path

import duckdb
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from metarisk import lake
from metarisk.answers import replay as reproducing
from metarisk.cli import app
from metarisk.domain import ConfigError, DataError, QualityError
from metarisk.upkeep import audit
from metarisk.upkeep import forget as forgetting
from metarisk.upkeep import override as overriding
from tests.end_to_end import dying, tiny
from tests.end_to_end.test_kills import kill
from tests.end_to_end.tiny import FIRST, NAME, SECOND, Project, book

WHO = "Zëppelin & <Söhne> 77|Q"
"""A name that pages escape and cut, and that no other value holds."""
DATES = ("event_date", "known_date")
BY, WHY = "D. Officer", "request 4711"
Remains = tuple[dict[str, list[str]], dict[str, bytes]]
"""Rows of the warehouse, and files of the lake."""


def planted() -> pl.DataFrame:
    """The book in which a loan of the first rows has the name: at risk, labelled long ago, and among the riskiest."""
    frame = book()
    lately = pl.col("opened_on").is_between(tiny.CUT_OFF - timedelta(days=300), tiny.CUT_OFF - timedelta(days=200))
    at_risk = pl.col("exit_date").is_null() & pl.col("event_date").is_null() & (pl.col("amount") > 0)
    mine = pl.col("loan_id") == frame.filter(lately & at_risk)["loan_id"][0]
    return frame.with_columns(
        loan_id=pl.when(mine).then(pl.lit(WHO)).otherwise("loan_id"),
        amount=pl.when(mine).then(8 * pl.col("amount")).otherwise("amount"),
    )


@pytest.fixture
def nights(published_project: Project) -> Project:
    """A night without the name, one with it, two refused ones that tell of it or set it aside, and words of people."""
    project, frame = published_project, planted()
    mine, other = pl.col("loan_id") == WHO, pl.col("loan_id") == frame["loan_id"][-1]
    project.load(frame)
    project.nightly(SECOND)
    early = pl.col("opened_on") - timedelta(days=9)
    for day, wrong in (
        (1, frame.with_columns(pl.when(mine).then(early).otherwise(date).alias(date) for date in DATES)),
        (2, frame.with_columns(pl.when(other).then(early).otherwise(date).alias(date) for date in DATES).with_columns(
            amount=pl.when(mine).then(-1.0).otherwise("amount"))),
    ):  # fmt: skip
        project.load(wrong)
        with pytest.raises(QualityError):
            project.nightly(SECOND + timedelta(days=day))
    context = project.context(SECOND)
    overriding.override(context, WHO, 0.02, "Ann Officer", f"{WHO} has a guarantor")
    overriding.override(context, project.scores(SECOND)["entity"][0], 0.03, "Ann Officer", "a new guarantor")
    project.load(frame.filter(~mine))  # DuckDB holds the sources in the same file
    return project


def where(project: Project, name: str = WHO) -> list[str]:
    """Files and columns that hold the name, in bytes, in values of Parquet, and in every text of every table."""
    return sorted({*in_files(project, name), *in_tables(project, name)})


def in_files(project: Project, name: str) -> Iterator[str]:
    data = project.settings.data_dir
    forms = [name.encode(), json.dumps(name)[1:-1].encode(), name[:9].encode()]
    for path in (path for path in data.rglob("*") if path.is_file()):
        if any(form in path.read_bytes() for form in forms):
            yield str(path.relative_to(data))
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
            if any(frame[column].str.contains(name, literal=True).any() for column in texts(frame)):
                yield str(path.relative_to(data))
        if path.name == "warehouse-bi.duckdb":
            with duckdb.connect(path, read_only=True) as connection:
                for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                    rows = (
                        connection.execute(f"SELECT * FROM metarisk.{table}").pl()
                        if table not in {"copied", "held"}
                        else pl.DataFrame()
                    )
                    if any(rows[column].str.contains(name, literal=True).any() for column in texts(rows)):
                        yield f"{path.name} {table}"


def texts(frame: pl.DataFrame) -> list[str]:
    return [column for column, kind in frame.schema.items() if kind == pl.String]


def in_tables(project: Project, name: str) -> Iterator[str]:
    tables = project.warehouse.rows(
        "SELECT c.table_name AS name, string_agg(c.column_name, ', ') AS texts FROM information_schema.columns AS c "
        "JOIN information_schema.tables AS t ON t.table_schema = c.table_schema AND t.table_name = c.table_name "
        "WHERE c.table_schema = 'metarisk' AND c.data_type IN ('VARCHAR', 'text') AND t.table_type = 'BASE TABLE' "
        "GROUP BY c.table_name"
    )
    for row in tables:
        sql = (
            f"SELECT count(*) AS n FROM metarisk.{row['name']} WHERE strpos(concat_ws('|', {row['texts']}), $name) > 0"
        )
        if project.warehouse.rows(sql, {"name": name})[0]["n"]:
            yield row["name"]


def ask(project: Project, entity: str = WHO) -> forgetting.Forgotten:
    return forgetting.forget(project.context(SECOND), entity, BY, WHY)


def scores(project: Project) -> dict[str, pl.DataFrame]:
    return {str(as_of): project.scores(as_of) for as_of in (FIRST, SECOND)}


def as_forgotten(project: Project, before: dict[str, pl.DataFrame], pseudonym: str) -> None:
    """The name is nowhere, every other row is what it was, the log is whole, and the nights are reproduced."""
    assert where(project) == []
    for night, rows in scores(project).items():
        expected = before[night].with_columns(pl.col("entity").replace(WHO, pseudonym)).sort("entity")
        assert rows.sort("entity").equals(expected)
    assert project.count("score_current") == before[str(SECOND)].height
    context = project.context(SECOND)
    assert audit.verify(context, every_night=True).faults == ()
    for row in project.warehouse.rows("SELECT run_id FROM metarisk.run"):
        found = reproducing.reproduce(context, row["run_id"])
        erased = int(found.as_of == SECOND)
        assert (found.differences, found.identical, found.erased) == ((), True, erased)
        assert found.rows == before[str(found.as_of)].height - erased
    for folder in lake.sealed(project.settings.data_dir / "lake"):
        lake.verify(folder)
    assert not list((project.settings.data_dir / "forgetting").iterdir())


def test_the_name_is_nowhere_and_all_else_is_as_before(nights: Project) -> None:
    before, held = scores(nights), where(nights)
    assert {"quality_result", "risk_score", "score_override"} <= set(held)
    copies = ["warehouse-bi.duckdb risk_score"] if nights.warehouse.dialect == "duckdb" else []
    for part in ("/extract/", "/score/", "/quarantine/", "reports/", *copies):
        assert any(part in place for place in held), part
    done = ask(nights)
    assert done.left == ()
    assert {change.where: change.rows for change in done.changed}["metarisk.risk_score"] == 1
    as_forgotten(nights, before, done.pseudonym)
    assert {row["model_score"] > 0 for row in overriding.current(nights.context(SECOND))} == {True}
    with pytest.raises(DataError, match=r"nothing that is kept here holds.*check the entity"):
        ask(nights)
    with nights.warehouse.transaction() as transaction:
        transaction.execute(
            "UPDATE metarisk.risk_score SET score = score + 1e-12 WHERE entity = $p", {"p": done.pseudonym}
        )
    (fault,) = audit.verify(nights.context(SECOND)).faults
    assert "score rows of run" in fault.what


@pytest.fixture
def known(published_project: Project) -> tuple[Project, str]:
    """One published night, and an entity on its page that its source does not have any more."""
    return gone(published_project)


def gone(project: Project) -> tuple[Project, str]:
    told = page(project).read_text()
    entity = next(name for name in project.scores()["entity"] if name in told)
    project.load(book().filter(pl.col("loan_id") != entity))
    return project, entity


def page(project: Project) -> Path:
    (found,) = (project.settings.data_dir / "reports" / NAME).glob(f"{FIRST}-*.html")
    return found


@pytest.fixture(scope="module")
def undisturbed(published_on_duckdb: Project, tmp_path_factory: pytest.TempPathFactory) -> Remains:
    """What an erasure leaves that nobody killed."""
    project, entity = gone(tiny.copy(published_on_duckdb, tmp_path_factory.mktemp("erased") / "project"))
    dying.erase(project, entity)
    return remains(project)


def remains(project: Project) -> Remains:
    root = project.settings.data_dir / "lake"
    return project.contents(), {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def test_killed_at_every_step_and_run_again(
    known: tuple[Project, str], forked: ForkServerContext, undisturbed: Remains
) -> None:
    project, entity = known
    before, told = project.scores(), page(project).read_text()
    embedded = project.warehouse.dialect == "duckdb"
    for death in (name for name in dying.DEATHS if embedded or name != "the database is rewritten"):
        kill(forked, dying.erasure, project, entity, death)
    with pytest.raises(ConfigError, match=f"the erasure of '{entity}' was not ended.*end it first"):
        ask(project, before["entity"][6])
    done = dying.erase(project, entity)
    assert done.left == ()
    assert where(project, entity) == []
    (rows, files), (expected_rows, expected_files) = remains(project), undisturbed
    assert tiny.differences(rows, expected_rows) == []
    assert files == expected_files
    assert page(project).read_text() == told.replace(entity, done.pseudonym)
    assert not list((project.settings.data_dir / "forgetting").iterdir())
    assert audit.verify(project.context(FIRST)).faults == ()
    (run,) = project.warehouse.rows("SELECT run_id FROM metarisk.run")
    found = reproducing.reproduce(project.context(FIRST), run["run_id"])
    assert (found.differences, found.erased) == ((), 1)


def test_the_command_says_what_it_did_and_what_it_cannot(
    known: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, entity = known
    monkeypatch.setenv("METARISK_PROJECT", str(project.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", project.settings.warehouse.get_secret_value())
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> Result:
        return CliRunner().invoke(app, [*words])

    who = ["-p", NAME, "--by", BY]
    for name, why, said in (("nobody at all", WHY, "check the entity"), (entity, f"of {entity}", "without the name")):
        refused = call("forget", name, *who, "--reason", why)
        assert refused.exit_code == 1
        assert said in refused.output
    with project.warehouse.lock(NAME):
        refused = call("forget", entity, *who, "--reason", WHY)
    assert (refused.exit_code, "LockedError" in refused.output) == (1, True)
    done = call("forget", entity, *who, "--reason", WHY)
    assert done.exit_code == 0, done.output
    for told in ("metarisk.risk_score", "rows taken out", "The source still has it", "Backups"):
        assert told in done.output
    (run,) = project.warehouse.rows("SELECT run_id FROM metarisk.run")
    replayed = call("replay", run["run_id"])
    assert (replayed.exit_code, "1 row erased" in replayed.output) == (0, True)
    (folder,) = (project.settings.data_dir / "lake" / NAME / str(FIRST) / "runs").glob("*/score")
    lake.write_manifest(folder, {**lake.read_manifest(folder), "erased": [{"pseudonym": "erased-0", "rows": 1}]})
    forged = call("replay", run["run_id"])
    assert (forged.exit_code, "is not what its erasure left" in forged.output) == (1, True)


def test_an_erasure_hides_no_other_change(known: tuple[Project, str]) -> None:
    project, entity = known
    with project.warehouse.transaction() as transaction:
        change = "UPDATE metarisk.risk_score SET score = score / 2 WHERE entity <> $entity"
        transaction.execute(change, {"entity": entity})
    with pytest.raises(DataError, match=r"an erasure would hide it.*restore the warehouse first"):
        ask(project, entity)
    assert entity in project.scores()["entity"]
