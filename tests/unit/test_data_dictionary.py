"""sql/dictionary describes every table, view and column and no other; both databases and the page say it."""

from __future__ import annotations

import logging
import shutil
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from metarisk.domain import ConfigError, Warehouse
from metarisk.warehouse import dictionary
from metarisk.warehouse.duckdb import DuckDBWarehouse
from tests.dictionary import DICTIONARY, PAGE, RENEW, comments, entries, page
from tests.warehouses import SQL, Server, open_postgresql, schema, user

COMMENTS = "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE schema_name = 'metarisk' ORDER BY ALL"


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    """A copy of the project's sql folder, to be spoiled."""
    shutil.copytree(SQL, tmp_path / "sql")
    return tmp_path / "sql"


def test_the_page_is_what_the_comments_of_both_databases_say(warehouse: Warehouse) -> None:
    assert page(warehouse) == PAGE.read_text("utf-8"), f"renew it: {RENEW}"


def test_the_dictionary_describes_nothing_else(embedded: DuckDBWarehouse) -> None:
    rows = embedded.rows("SELECT table_name AS t, column_name AS c FROM information_schema.columns")
    held = {(row["t"], row["c"]) for row in rows}
    described = entries("tables") | entries("views")
    own = {(name, column) for name, entry in described.items() for column in entry.get("columns", ())}
    assert own - held == set()
    assert {name for name, _ in held} >= set(described)


def test_every_meaning_is_a_sentence() -> None:
    meanings = dictionary.read(DICTIONARY)
    short = [(name, column) for name, texts in meanings.items() for column, text in texts.items() if len(text) < 3]
    assert short == []
    assert [name for name, texts in meanings.items() if not texts[None].endswith((".", "`."))] == []


def test_what_changed_is_commented_and_what_nobody_described_keeps_its_comment(warehouse: Warehouse, sql: Path) -> None:
    (sql / "views" / "mine.sql").write_text("CREATE VIEW metarisk.mine AS SELECT 1 AS one;")
    assert warehouse.migrate(*schema(sql)) == ["views", "comments"]
    with warehouse.transaction() as transaction:
        transaction.execute("COMMENT ON VIEW metarisk.mine IS 'a view of one''s own'")
        transaction.execute("COMMENT ON COLUMN metarisk.night.status IS NULL")
    tables = sql / "dictionary" / "tables.toml"
    tables.write_text(tables.read_text("utf-8").replace("Number of the file", r"It's \\ \"1\" of a; $file"), "utf-8")
    assert warehouse.migrate(*schema(sql)) == ["comments"]
    assert warehouse.migrate(*schema(sql)) == []
    shown = comments(warehouse)
    assert shown["schema_migration", "version"] == r"""It's \ "1" of a; $file"""
    assert shown["mine", None] == "a view of one's own"
    assert shown["night", "status"].startswith("`green`; ")


def test_columns_mean_what_their_own_table_says_then_another_then_all(tmp_path: Path) -> None:
    for name, text in {
        "columns": 'a = "of all"\nb = "of all"\nc = "of all"',
        "tables": '[t]\nabout = "T"\n[t.columns]\na = "of t"\nb = "of t"',
        "views": '[v]\nabout = """\n  V\n  goes on."""\nlike = "t"\n[v.columns]\na = "of v"',
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)
    assert dictionary.read(tmp_path) == {
        "t": {None: "T", "a": "of t", "b": "of t", "c": "of all"},
        "v": {None: "V goes on.", "a": "of v", "b": "of t", "c": "of all"},
    }
    for text in ("[v]", "[v]\nabout = 1\n", '[v]\nabout = "V"\nlike = "w"', '[v]\nabout = "V"\nlike = "v"', "v ="):
        (tmp_path / "views.toml").write_text(text)
        with pytest.raises(ConfigError, match=r"does not say what tables mean.*Remedy: restore"):
            dictionary.read(tmp_path)
    with pytest.raises(ConfigError, match="nowhere does not say"):
        dictionary.read(tmp_path / "nowhere")


def test_the_file_for_bi_has_the_comments_and_keeps_them(embedded: DuckDBWarehouse) -> None:
    def said(path: Path) -> list[tuple[str, str, str]]:
        with closing(duckdb.connect(str(path), read_only=True)) as opened:
            return opened.execute(COMMENTS).fetchall()

    wanted = [tuple(row.values()) for row in embedded.rows(COMMENTS)]
    for _ in range(2):
        held = said(embedded.snapshot())
        assert [row for row in held if row[0] != "copied"] == wanted
    with embedded.transaction() as transaction:
        transaction.execute("COMMENT ON COLUMN metarisk.night.status IS 'another word'")
    assert ("night", "status", "another word") in said(embedded.snapshot())


@pytest.mark.xdist_group("postgresql")
def test_who_does_not_own_the_schema_is_told_and_goes_on(
    postgresql: Server, migrated_template: str, sql: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = postgresql.create_database(migrated_template)
    tables = sql / "dictionary" / "tables.toml"
    tables.write_text(tables.read_text("utf-8").replace('"Number of the file"', '"Number"'), "utf-8")
    with user(postgresql, "metarisk_writer", database) as writer:
        warehouse = open_postgresql(postgresql.url(database, user=writer), tmp_path)
        with caplog.at_level(logging.WARNING, "metarisk"):
            assert warehouse.migrate(*schema()) == []
            assert caplog.messages == []
            assert warehouse.migrate(*schema(sql)) == []
    (message,) = caplog.messages
    assert message.startswith("1 comments of schema metarisk are not what sql/dictionary says")
    assert open_postgresql(postgresql.url(database), tmp_path).migrate(*schema(sql)) == ["comments"]
