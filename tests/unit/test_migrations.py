"""Migrations run once, in order and whole; what was edited, lost or comes late is refused; views follow their files."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest

from metarisk.domain import ConfigError, DataError, Warehouse
from metarisk.warehouse import migrations
from metarisk.warehouse.statements import split
from tests.warehouses import (
    MIGRATIONS,
    VIEWS,
    Server,
    address,
    child,
    open_postgresql,
    publish_night,
    schema,
    user,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the project's sql folder, to be spoiled."""
    shutil.copytree(MIGRATIONS.parent, tmp_path / "sql")
    return tmp_path / "sql"


def names(warehouse: Warehouse) -> set[str]:
    sql = "SELECT table_name AS name FROM information_schema.views WHERE table_schema = 'metarisk'"
    return {row["name"] for row in warehouse.rows(sql)}


def test_all_are_applied_once_then_the_views(empty_warehouse: Warehouse) -> None:
    done = empty_warehouse.migrate(*schema())
    assert done == [migration.name for migration in migrations.read(MIGRATIONS, empty_warehouse.dialect)] + [
        "views",
        "comments",
    ]
    history = empty_warehouse.rows("SELECT version, name FROM metarisk.schema_migration ORDER BY version")
    assert [row["name"] for row in history] == done[:-2]
    assert names(empty_warehouse) == {path.stem for path in VIEWS.glob("*.sql")}
    assert empty_warehouse.migrate(*schema()) == []


def test_a_new_file_is_applied_and_a_failing_one_leaves_nothing(warehouse: Warehouse, folder: Path) -> None:
    number = len({path.name[:3] for path in MIGRATIONS.glob("*.sql")}) + 1
    new = folder / "migrations" / f"{number:03d}_new.sql"
    new.write_text(
        "CREATE TABLE metarisk.fresh (a INTEGER); -- one; two\nINSERT INTO metarisk.fresh VALUES (1); SELECT oops;"
    )
    with pytest.raises(ConfigError):
        warehouse.migrate(*schema(folder))
    new.write_text("CREATE TABLE metarisk.fresh (a INTEGER);\nINSERT INTO metarisk.fresh VALUES (2);")
    assert warehouse.migrate(*schema(folder)) == [f"{number:03d}_new"]
    assert warehouse.rows("SELECT a FROM metarisk.fresh") == [{"a": 2}]


def test_an_edited_file_is_refused_by_name(warehouse: Warehouse, folder: Path) -> None:
    edited = folder / "migrations" / "002_runs.sql"
    text = edited.read_text()
    edited.write_text(text.replace("\n", "\r\n"))
    assert warehouse.migrate(*schema(folder)) == []
    edited.write_text(text + "-- one word more\n")
    with pytest.raises(ConfigError, match=r"002_runs\.sql was edited after it ran.*Remedy: restore its text"):
        warehouse.migrate(*schema(folder))


def test_a_warehouse_newer_than_the_code_is_refused(warehouse: Warehouse, folder: Path) -> None:
    last = migrations.read(MIGRATIONS, warehouse.dialect)[-1]
    for path in (folder / "migrations").glob("*.sql"):
        if path.name[:3] >= last.name[:3]:
            path.unlink()
    with pytest.raises(ConfigError, match=r"which this code has not.*Remedy: run the version"):
        warehouse.migrate(*schema(folder))


def test_a_warehouse_with_scores_and_views_takes_new_columns(empty_warehouse: Warehouse, folder: Path) -> None:
    """Columns of 008 on a warehouse that published before it: old rows stay, with nulls."""
    later = [path for path in (folder / "migrations").glob("*.sql") if path.name >= "008"]
    texts = {path: path.read_text() for path in later}
    for path in later:
        path.unlink()
    views = folder / "views"
    views.rename(folder / "views_of_today")
    views.mkdir()
    (views / "seen.sql").write_text("CREATE VIEW metarisk.seen AS SELECT * FROM metarisk.risk_score;")
    empty_warehouse.migrate(*schema(folder))
    shutil.rmtree(views)
    (folder / "views_of_today").rename(views)
    if empty_warehouse.dialect == "postgresql":  # partitions are made by a function of a later migration
        with empty_warehouse.transaction() as transaction:
            (function,) = (text for path, text in texts.items() if path.stem.endswith("_roles.postgresql"))
            transaction.execute(split(function)[1])
    publish_night(empty_warehouse, date(2026, 3, 27), run_id="old", entities=2)
    for path, text in texts.items():
        path.write_text(text)
    assert "008_scorecard" in empty_warehouse.migrate(*schema(folder))
    rows = empty_warehouse.rows("SELECT score, expected_loss FROM metarisk.score_current")
    assert [row["expected_loss"] for row in rows] == [None, None]
    assert empty_warehouse.rows("SELECT * FROM metarisk.grade_backtest_current") == []


def test_nights_that_were_published_can_be_taken_back(empty_warehouse: Warehouse, folder: Path) -> None:
    """020 on a warehouse that published before it: its rows and its keys stay."""
    new = folder / "migrations" / "020_retraction.sql"
    later = {path: path.read_text() for path in (folder / "migrations").glob("*.sql") if path.name >= new.name}
    views = {path: path.read_text() for path in (folder / "views").glob("*.sql")}
    for path in (*later, *views):  # views of today read what later migrations make
        path.unlink()
    empty_warehouse.migrate(*schema(folder))
    publish_night(empty_warehouse, date(2026, 3, 27), run_id="old", entities=2)
    before = empty_warehouse.rows("SELECT * FROM metarisk.publication")
    for path, text in (later | views).items():
        path.write_text(text)
    assert new.stem in empty_warehouse.migrate(*schema(folder))
    assert empty_warehouse.rows("SELECT * FROM metarisk.publication") == before
    taken = (
        "INSERT INTO metarisk.publication SELECT portfolio, as_of, {}, NULL, published_at + INTERVAL '1 hour', 'why' "
        "FROM metarisk.publication"
    )
    with pytest.raises(DataError), empty_warehouse.transaction() as transaction:
        transaction.execute(taken.format(1))
    with empty_warehouse.transaction() as transaction:
        transaction.execute(taken.format(2))
    assert empty_warehouse.rows("SELECT * FROM metarisk.score_current") == []


def test_a_file_that_comes_late_is_refused(warehouse: Warehouse, folder: Path) -> None:
    count = len({path.name[:3] for path in MIGRATIONS.glob("*.sql")})
    other = "postgresql" if warehouse.dialect == "duckdb" else "duckdb"
    skipped, newest = (folder / "migrations" / f"{count + step:03d}_{name}" for step, name in ((1, "a"), (2, "b")))
    skipped.with_name(f"{skipped.name}.{other}.sql").write_text("SELECT 1;")
    newest.with_name(f"{newest.name}.sql").write_text("SELECT 1;")
    assert warehouse.migrate(*schema(folder)) == [newest.name]
    skipped.with_name(f"{skipped.name}.{warehouse.dialect}.sql").write_text("SELECT 1;")
    with pytest.raises(ConfigError, match=r"_a\..*sql comes before .*Remedy: give it the next free number"):
        warehouse.migrate(*schema(folder))


def test_names_numbers_and_gaps_are_checked(folder: Path) -> None:
    scripts = folder / "migrations"
    count = len({path.name[:3] for path in MIGRATIONS.glob("*.sql")})
    for name, message in (
        ("1_short.sql", "is no migration"),
        ("002_other.sql", "have one number"),
        ("099_later.sql", f"has no migration {count + 1:03d}"),
    ):
        (scripts / name).write_text("SELECT 1;")
        with pytest.raises(ConfigError, match=message):
            migrations.read(scripts, "duckdb")
        (scripts / name).unlink()
    with pytest.raises(ConfigError, match="holds no migrations"):
        migrations.read(folder / "nowhere", "duckdb")


def test_a_dialect_takes_its_own_file(folder: Path) -> None:
    for dialect, other in (("duckdb", "postgresql"), ("postgresql", "duckdb")):
        chosen = [migration.path.name for migration in migrations.read(folder / "migrations", dialect)]
        assert f"003_scores.{dialect}.sql" in chosen
        assert not [name for name in chosen if other in name]


def test_views_follow_their_files(warehouse: Warehouse, folder: Path) -> None:
    views = folder / "views"
    (views / "a_first.sql").write_text("CREATE VIEW metarisk.a_first AS SELECT two AS one FROM metarisk.b_second;")
    (views / "b_second.sql").write_text("CREATE VIEW metarisk.b_second AS SELECT 2 AS two;")
    assert warehouse.migrate(*schema(folder)) == ["views", "comments"]
    assert warehouse.rows("SELECT one FROM metarisk.a_first") == [{"one": 2}]
    (views / "a_first.sql").unlink()
    (views / "b_second.sql").write_text(
        "CREATE VIEW metarisk.b_second AS SELECT nothing_here AS two FROM metarisk.run;"
    )
    with pytest.raises(ConfigError):
        warehouse.migrate(*schema(folder))
    assert warehouse.rows("SELECT one FROM metarisk.a_first") == [{"one": 2}]
    (views / "b_second.sql").unlink()
    assert warehouse.migrate(*schema(folder)) == ["views", "comments"]
    assert names(warehouse) == {path.stem for path in VIEWS.glob("*.sql")}
    with warehouse.transaction() as transaction:
        transaction.execute("DROP VIEW metarisk.night")
    assert warehouse.migrate(*schema(folder)) == ["views", "comments"]


def test_a_view_file_holds_its_view_and_no_circle(folder: Path) -> None:
    views = folder / "views"
    (views / "odd.sql").write_text("CREATE VIEW metarisk.even AS SELECT 1 AS one;")
    with pytest.raises(ConfigError, match=r"odd\.sql does not define its view"):
        migrations.read_views(views)
    (views / "odd.sql").write_text("CREATE VIEW metarisk.odd AS SELECT * FROM metarisk.even;")
    (views / "even.sql").write_text("CREATE VIEW metarisk.even AS SELECT * FROM metarisk.odd;")
    with pytest.raises(ConfigError, match="views read each other: "):
        migrations.read_views(views)


@pytest.mark.xdist_group("postgresql")
def test_views_are_granted_again(postgresql: Server, folder: Path, tmp_path: Path) -> None:
    name = postgresql.create_database()
    warehouse = open_postgresql(postgresql.url(name), tmp_path)
    warehouse.migrate(*schema(folder))
    odd = 'Odd "reader"; --'
    quoted = '"' + odd.replace('"', '""') + '"'
    postgresql.execute(f"CREATE ROLE {quoted} LOGIN", database=name)
    try:
        postgresql.execute(
            f"GRANT USAGE ON SCHEMA metarisk TO {quoted}",
            f"GRANT SELECT ON metarisk.night TO {quoted}",
            "REVOKE SELECT ON metarisk.night FROM metarisk_bi",
            database=name,
        )
        assert warehouse.migrate(*schema(folder)) == ["views", "comments"]  # a group lacks a right
        assert warehouse.migrate(*schema(folder)) == []
        with user(postgresql, "metarisk_bi") as reader:
            bi = open_postgresql(postgresql.url(name, user=reader), tmp_path)
            for view in folder.glob("views/*.sql"):
                assert bi.rows(f"SELECT count(*) AS n FROM metarisk.{view.stem}") == [{"n": 0}] or view.stem
            (folder / "views" / "extra.sql").write_text("CREATE VIEW metarisk.extra AS SELECT 1 AS one;")
            assert warehouse.migrate(*schema(folder)) == ["views", "comments"]
            assert bi.rows("SELECT one FROM metarisk.extra") == [{"one": 1}]
        granted = "SELECT has_table_privilege($role, 'metarisk.night', 'SELECT') AS it"
        assert warehouse.rows(granted, {"role": odd}) == [{"it": True}]
    finally:
        postgresql.execute(f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}", database=name)


MIGRATE = """
import sys
from pathlib import Path
from metarisk.warehouse import open_warehouse
from tests.warehouses import schema
warehouse = open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=128)
print("ready", flush=True)
sys.stdin.readline()
print(len(warehouse.migrate(*schema())))
"""


def test_two_migrators_at_once_do_the_work_once(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    where = address(empty_warehouse, tmp_path)
    with child(MIGRATE, *where) as first, child(MIGRATE, *where) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        done = [int(process.communicate()[0]) for process in (first, second)]
    total = len(migrations.read(MIGRATIONS, empty_warehouse.dialect)) + 2  # views and comments
    assert sorted(done) == [0, total]
