"""What fails around a night: the source is late, the warehouse is down, read-only or full, files are damaged or edited.

Each time the error says what to do, nothing is published, and the next run goes on as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import Pipe
from multiprocessing.context import ForkServerContext
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

import polars as pl
import pytest
from pydantic import SecretStr

from metarisk import jobs, registry
from metarisk.domain import (
    ConfigError,
    DataError,
    Job,
    MetariskError,
    ModelError,
    SnapshotError,
    SourceLate,
    WarehouseError,
)
from metarisk.job.champion import champion_for
from metarisk.jobs import Context
from metarisk.record import models as records
from metarisk.upkeep import audit
from metarisk.upkeep import models as promotion
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.conftest import POSTGRESQL
from tests.end_to_end import disks, dying, tiny
from tests.end_to_end.tiny import FIRST, NAME, SECOND, Listener, Project, differences
from tests.warehouses import Server

Result = TypeVar("Result")
Damage = Callable[[Path], None]


@contextmanager
def refused(project: Project, kind: type[MetariskError], words: str) -> Iterator[None]:
    """The block ends in an error that names portfolio, date and remedy, and nothing is published."""
    with pytest.raises(kind, match=rf"portfolio tiny, .*as of {FIRST}: .*{words}.*\. Remedy: \w+"):
        yield


def test_a_source_that_is_late(project: Project, undisturbed: dict[str, list[str]]) -> None:
    loaded = tiny.book().filter(pl.col("opened_on") <= FIRST)
    ready = 'ready_sql = "SELECT count(*) > 0 AS ready FROM source.arrived WHERE day >= $as_of"'
    days = pl.DataFrame({"day": [FIRST]})
    project.warehouse.load("source.arrived", days.clear().to_arrow().to_reader())
    project.edit("portfolios/tiny.toml", "[columns]", f"{ready}\n\n[columns]")
    with refused(project, SourceLate, "the source was not ready within 0 minutes; nothing was published"):
        project.nightly()
    assert project.count("publication") == 0
    attempts = project.warehouse.rows("SELECT outcome, step FROM metarisk.attempt WHERE job = 'night'")
    assert attempts == [{"outcome": "source_late", "step": "ready"}]
    project.warehouse.load("source.arrived", days.to_arrow().to_reader())
    assert project.nightly().outcome == "published"
    assert project.scores().height < loaded.height


def test_a_server_that_is_down(duckdb: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarisk.warehouse.postgresql.connect.FIRST_PAUSE", 0.001)
    url = SecretStr(f"postgresql://risk:s3cret@/risk?host={tmp_path}")
    down = Project(duckdb.settings.model_copy(update={"warehouse": url}))
    with refused(down, WarehouseError, "cannot be reached") as _:
        down.nightly()
    with pytest.raises(WarehouseError) as caught:
        down.weekly()
    assert "s3cret" not in str(caught.value)


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize(
    ("breaks", "mends", "words"),
    [
        (
            "ALTER DATABASE {name} SET default_transaction_read_only = on",
            "ALTER DATABASE {name} SET default_transaction_read_only = off",
            "is read-only",
        ),
        (
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$; "
            "CREATE TRIGGER no_room BEFORE INSERT ON metarisk.publication EXECUTE FUNCTION no_room()",
            "DROP TRIGGER no_room ON metarisk.publication",
            "is full",
        ),
    ],
    ids=["read-only", "full"],
)
def test_a_server_that_refuses_to_write(
    breaks: str,
    mends: str,
    words: str,
    trained_on_postgresql: tuple[Project, str],
    postgresql: Server,
    tmp_path: Path,
    undisturbed: dict[str, list[str]],
) -> None:
    name = postgresql.create_database(trained_on_postgresql[1])
    project = tiny.copy(trained_on_postgresql[0], tmp_path / "project", postgresql.url(name))
    outside = "postgres" if "ALTER DATABASE" in breaks else name
    postgresql.execute(breaks.format(name=name), database=outside)
    with refused(project, WarehouseError, words):
        project.nightly()
    assert (project.count("publication"), project.count("risk_score")) == (0, 0)
    postgresql.execute(mends.format(name=name), database=outside)
    project.nightly()
    assert differences(project.contents(), undisturbed) == []


@pytest.mark.xdist_group("postgresql")
def test_a_server_whose_disk_is_full(
    trained_on_postgresql: tuple[Project, str], postgresql: Server, tmp_path: Path, undisturbed: dict[str, list[str]]
) -> None:
    with postgresql.small_disk() as (tablespace, disk):
        if disk is None:
            pytest.skip("nobody but root may mount a disk for a server")
        name = postgresql.create_database(trained_on_postgresql[1], tablespace)
        project = tiny.copy(trained_on_postgresql[0], tmp_path / "project", postgresql.url(name))

        def filling(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
            if step.__name__ == "publish":
                disks.fill(disk, 8 << 10)
            return jobs.direct(step, context, *inputs)

        with refused(project, WarehouseError, "is full .*No space left on device"):
            jobs.nightly(project.context(FIRST), filling)
        assert (project.count("publication"), project.count("risk_score")) == (0, 0)
        disks.empty(disk)
        project.nightly()
        assert differences(project.contents(), undisturbed) == []
        postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize("fault", ["restarted", "cut"])
def test_a_server_that_goes_away_while_it_publishes(
    fault: str,
    trained_on_postgresql: tuple[Project, str],
    postgresql: Server,
    tmp_path: Path,
    undisturbed: dict[str, list[str]],
) -> None:
    name = postgresql.create_database(trained_on_postgresql[1])
    project = tiny.copy(trained_on_postgresql[0], tmp_path / "project", postgresql.url(name))
    go_away = postgresql.restart if fault == "restarted" else partial(postgresql.cut, name)
    now: list[str] = []

    def clock() -> datetime:
        if now[-1:] == ["publish"]:  # inside its transaction
            go_away()
            now.append("gone")
        return tiny.noon()

    def cutting(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        now.append(step.__name__)
        if fault == "cut" and step.__name__ == "score":  # between two steps, where only the lock has a connection
            postgresql.cut(name)
        return jobs.direct(step, context, *inputs)

    with refused(project, WarehouseError, "connection"):
        jobs.nightly(replace(project.context(FIRST), clock=clock), cutting)
    assert "gone" in now
    assert (project.count("publication"), project.count("risk_score")) == (0, 0)
    project.nightly()
    assert differences(project.contents(), undisturbed) == []


def test_a_clock_that_goes_back(published_project: Project) -> None:
    published = published_project
    back = replace(published.context(SECOND), clock=lambda: tiny.noon() - timedelta(days=20))
    again = Job(NAME, FIRST, "restatement", "wrong signs")
    published.load(tiny.book().with_columns(pl.col("amount").abs()))
    assert jobs.nightly(back).outcome == "published"
    assert jobs.nightly(replace(back, job=again)).outcome == "published"
    known = published.warehouse.rows(
        "SELECT DISTINCT as_of, seq, known_from, known_to FROM metarisk.score_as_known ORDER BY known_from"
    )
    assert [(row["as_of"], row["seq"]) for row in known] == [(FIRST, 1), (SECOND, 1), (FIRST, 2)]
    assert known[0]["known_to"] == known[2]["known_from"]
    # A model of the same cut-off that becomes champion later serves, whatever the clock says.
    (old,) = promotion.models(back)
    with published.warehouse.transaction() as transaction:
        transaction.execute(
            "INSERT INTO metarisk.model "
            "(model_id, portfolio, as_of, recipe, created_at, path, metrics, config_hash, code_version) "
            "SELECT 'newer', portfolio, as_of, recipe, created_at, path, metrics, config_hash, code_version "
            "FROM metarisk.model"
        )
        records.append_states(transaction, Job(NAME, old["as_of"]), back.clock(), "newer", ["champion"], "test")
    champion = champion_for(back)
    assert champion is not None
    assert champion.model_id == "newer"
    assert audit.verify(back).faults == ()


@pytest.mark.parametrize(
    ("folder", "step", "room", "kind", "words"),
    [
        ("lake", "extract", 4 << 10, DataError, "the disk of .*/var/lake is full"),
        ("lake", "score", 0, DataError, "the disk of .*/var is full"),
        ("lake", "drift", 0, DataError, "the disk of .*/var is full"),
        ("own", "publish", 0, WarehouseError, r"the warehouse .*/own/warehouse\.duckdb is full"),
        ("own", "publish", 800 << 10, SnapshotError, r"all is committed, but the file for BI .* is full"),
    ],
)
def test_a_full_disk(
    folder: str,
    step: str,
    room: int,
    kind: type[MetariskError],
    words: str,
    duckdb: Project,
    forked: ForkServerContext,
    undisturbed: dict[str, list[str]],
) -> None:
    data = duckdb.settings.data_dir
    if folder == "own":  # a disk for the warehouse alone, so that what fails is no file of the lake
        (data / folder).mkdir()
        for name in ("warehouse.duckdb", "warehouse-bi.duckdb"):
            (data / name).rename(data / folder / name)
        url = SecretStr("duckdb:///own/warehouse.duckdb")
        duckdb = Project(duckdb.settings.model_copy(update={"warehouse": url}))
    here, there = Pipe()
    process = forked.Process(target=disks.night, args=(duckdb, data / folder, step, room, there))
    process.start()
    there.close()
    error = here.recv()
    if isinstance(error, OSError):
        pytest.skip(f"no process may mount a disk of its own here: {error}")
    left, publications, pages = here.recv()
    contents, current = here.recv()
    process.join()
    with refused(duckdb, kind, words):
        raise error
    committed = kind is SnapshotError
    assert (left, publications, pages) == ([], int(committed), [] if committed else [f"{FIRST}-not-published.html"])
    assert differences(contents, undisturbed) == []
    assert {seen[0]: seen[2] for seen in current} == dict.fromkeys(
        ("warehouse", "snapshot"), len(undisturbed["risk_score"])
    )


def test_a_night_without_its_file_for_bi_is_told_as_published(duckdb: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()

    def full(self: DuckDBWarehouse) -> Path:
        raise SnapshotError("all is committed, but the file for BI stays as it was", remedy="free space")

    context = duckdb.context(FIRST, reporter=listener)
    with monkeypatch.context() as patch:
        patch.setattr(DuckDBWarehouse, "snapshot", full)
        with refused(duckdb, SnapshotError, "all is committed"):
            jobs.nightly(context)
    (attempt,) = duckdb.warehouse.rows("SELECT outcome, step, error FROM metarisk.run_attempt WHERE mode = 'nightly'")
    assert attempt == {"outcome": "published", "step": "publish", "error": None}
    assert not [line for line in listener.warnings if "recorded" in line]
    assert duckdb.nightly().outcome == "already_published"
    assert {seen[0] for seen in dying.current(duckdb)} == {"warehouse", "snapshot"}


@pytest.mark.parametrize(
    ("step", "limit", "words"),
    [("extract", 8 << 10, "the disk of .* is full"), ("publish", 32 << 10, "the warehouse .* is full")],
)
def test_a_file_that_may_not_grow(
    step: str,
    limit: int,
    words: str,
    duckdb: Project,
    forked: ForkServerContext,
    undisturbed: dict[str, list[str]],
) -> None:
    here, there = Pipe()
    process = forked.Process(target=dying.fill_up, args=(duckdb, FIRST, step, limit, there))
    process.start()
    error = here.recv()
    process.join()
    with refused(duckdb, MetariskError, words):
        raise error
    assert (duckdb.count("publication"), duckdb.count("risk_score")) == (0, 0)
    duckdb.nightly()
    assert differences(duckdb.contents(), undisturbed) == []


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: tuple[tuple[str, str, Damage], ...] = (
    ("check", "extract/part-*.parquet", truncated),
    ("score", "adapt/adaptation.safetensors", truncated),
    ("publish", "score/part-*.parquet", flipped),
)
FURTHER_DAMAGE: tuple[tuple[str, str, Damage], ...] = (
    ("adapt", "extract/part-*.parquet", flipped),
    ("score", "extract/part-*.parquet", flipped),
    ("guard", "score/part-*.parquet", truncated),
    ("publish", "drift/drift.parquet", truncated),
)


@pytest.mark.parametrize(
    ("kind", "before", "pattern", "damage"),
    [
        *(("duckdb", *case) for case in (*DAMAGE, *FURTHER_DAMAGE)),
        *(pytest.param("postgresql", *case, marks=POSTGRESQL) for case in DAMAGE),
    ],
    indirect=["kind"],
)
def test_files_damaged_between_steps(
    before: str, pattern: str, damage: Damage, project: Project, undisturbed: dict[str, list[str]]
) -> None:
    def damaging(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == before:
            for path in project.settings.data_dir.rglob(f"{FIRST}/**/{pattern}"):
                damage(path)
        return jobs.direct(step, context, *inputs)

    with refused(project, DataError, "is damaged: SHA-256"):
        jobs.nightly(project.context(FIRST), damaging)
    assert project.count("publication") == 0
    project.nightly()
    assert differences(without_quality(project.contents()), without_quality(undisturbed)) == []


def without_quality(contents: dict[str, list[str]]) -> dict[str, list[str]]:
    """Contents less verdicts: those of the attempt that failed are kept."""
    return {table: rows for table, rows in contents.items() if table != "quality_result"}


def test_a_migration_that_was_edited(project: Project) -> None:
    project.edit("sql/migrations/002_runs.sql", "TEXT    NOT NULL PRIMARY KEY", "TEXT    PRIMARY KEY")
    with refused(project, ConfigError, r"002_runs\.sql was edited after it ran on this warehouse"):
        project.nightly()
    assert project.count("publication") == 0


def swapped(path: Path) -> None:
    """Put another model in the place of one: whole, and not the one that the warehouse names."""
    name = path.parent.name
    files = registry.load(path.parents[2], NAME, name) | {"likeness.json": b"[]"}
    _, other = registry.save(path.parents[2], NAME, files, {})
    rmtree(path.parent)
    other.rename(path.parent)


@pytest.mark.parametrize(("damage", "changed"), [(flipped, "model.json"), (truncated, "model.json"), (swapped, "mani")])
def test_a_model_that_is_not_the_registered_one(damage: Damage, changed: str, project: Project) -> None:
    (path,) = project.settings.data_dir.glob(f"registry/{NAME}/*/model.json")
    damage(path)
    with refused(project, ModelError, f"is not as it was registered: {changed}.* changed"):
        project.nightly()
    assert project.count("publication") == 0
