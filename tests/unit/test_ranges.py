"""One SELECT read in ranges of its key: all rows once, as of one state, refused and failing as one stream would."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from metarisk import lake
from metarisk.domain import ConfigError, DataError, KeyRanges, MetariskError, Portfolio, Warehouse, WarehouseError
from metarisk.warehouse.postgresql.ranges import cut
from metarisk.warehouse.postgresql.warehouse import PostgreSQLWarehouse
from tests.unit.lake_examples import AS_OF, PORTFOLIO, good
from tests.unit.test_warehouse import WRITES
from tests.warehouses import Server, open_postgresql, server

pytestmark = pytest.mark.xdist_group("postgresql")
SPLIT = replace(PORTFOLIO, source=replace(PORTFOLIO.source, partitions=4))
BOOK = "SELECT * FROM source.book"
PROCESS = "SELECT *, pg_backend_pid() AS process FROM source.book"
WORDS = [
    "a",
    "A",
    "b-1",
    "B_1",
    "ä",
    "Ä",
    "ß",
    "Z",
    "z",
    "_",
    "-x",
    "10",
    "9",
    "O'Brien",
    "\\n",
    "é",
    "Ω",
    "日本",
    "🦊",
]


@pytest.fixture
def database(postgresql: Server, tmp_path: Path) -> PostgreSQLWarehouse:
    """A warehouse without any table."""
    return on(postgresql, tmp_path)


def on(running: Server, folder: Path, database: str | None = None) -> PostgreSQLWarehouse:
    """A warehouse in a database, a new one unless it is named."""
    opened = open_postgresql(running.url(database or running.create_database()), folder)
    assert isinstance(opened, PostgreSQLWarehouse)
    return opened


@pytest.fixture(scope="module")
def german() -> Iterator[Server]:
    """A server that knows the order of German words, where this machine can make that."""
    folder = Path(tempfile.mkdtemp(prefix="metarisk-locale-"))
    folder.chmod(0o755)
    try:
        if shutil.which("localedef"):
            subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], check=False)
        if not list(folder.iterdir()):
            pytest.skip("no localedef, or no sources of locales")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOCPATH", f"{folder}:{os.environ.get('LOCPATH', '/usr/lib/locale')}")
            with server() as running:
                yield running
    finally:
        shutil.rmtree(folder)


def load(warehouse: Warehouse, ids: Sequence[Any], **columns: pa.Array) -> None:
    """Make a good book of these keys the source, in random order."""
    order = random.Random(3).sample(range(len(ids)), len(ids))
    table = pa.table(good(len(ids)) | {"id": pa.array(ids)} | columns).take(pa.array(order))
    warehouse.load("book", table.to_reader())


def extract(
    warehouse: Warehouse, root: Path, portfolio: Portfolio = PORTFOLIO, sql: str = BOOK, ranges: KeyRanges | None = None
) -> lake.Extract:
    """A night's extract; cut by what is in the lake already, unless `ranges` are given."""
    ranges = ranges or lake.key_ranges(portfolio, root)
    with warehouse.streams(sql, {"as_of": AS_OF}, ranges) as readers:
        return lake.extract(
            readers, portfolio, AS_OF, root, "q" * 64, memory_mb=256, threads=1, progress=lambda *_: None
        )


def same(warehouse: Warehouse, root: Path, portfolio: Portfolio = PORTFOLIO, sql: str = BOOK) -> lake.Extract:
    """The extract of four readers in an empty lake, after a check that it is that of one."""
    plain = extract(warehouse, root / "one", portfolio, sql)
    ranges = lake.key_ranges(replace(portfolio, source=SPLIT.source), root / "one")
    with warehouse.streams(sql, {"as_of": AS_OF}, ranges) as readers:
        assert len(readers) == 1 if warehouse.dialect == "duckdb" else 2 <= len(readers) <= 4
    found = extract(warehouse, root / "four", portfolio, sql, ranges)
    assert found.extract_hash == plain.extract_hash
    assert [path.read_bytes() for path in found.paths] == [path.read_bytes() for path in plain.paths]
    return found


def words(count: int) -> list[str]:
    return [f"{WORDS[number % len(WORDS)]}{number // len(WORDS) or ''}" for number in range(count)]


# the same rows


@pytest.mark.parametrize(
    "keys",
    [
        words(3_000),
        [number * 7_919 - 9_000_000 for number in range(3_000)],
        [2**63 - 1 - number for number in range(1_500)] + [-(2**63) + number for number in range(1_500)],
    ],
    ids=["words", "numbers", "the largest numbers"],
)
def test_ranges_give_the_extract_of_one_stream_to_the_bit(
    empty_warehouse: Warehouse, tmp_path: Path, keys: list[Any]
) -> None:
    load(empty_warehouse, keys)
    assert same(empty_warehouse, tmp_path / "lake").rows == 3_000


def test_where_the_key_is_entity_and_date(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    columns = replace(PORTFOLIO.columns, event_date=None, exit_date=None, value="income")
    portfolio = replace(PORTFOLIO, columns=columns, features={"channel": PORTFOLIO.features["channel"]})
    load(empty_warehouse, ["one"] * 120 + ["another"] * 20 + ["Third"] * 10)
    assert same(empty_warehouse, tmp_path / "lake", portfolio).rows == 150


def test_whatever_order_the_database_has_of_texts(german: Server, postgresql: Server, tmp_path: Path) -> None:
    name = german.create_database()
    german.execute(f"DROP DATABASE {name}", f"CREATE DATABASE {name} LOCALE 'de_DE.UTF-8' TEMPLATE template0")
    sorted_so = on(german, tmp_path, name)
    order = sorted_so.rows("SELECT 'a' < 'B' AND 'B' < 'ß' AND 'ß' < 'Z' AS german, 'a' < 'B' COLLATE \"C\" AS bytes")
    assert order == [{"german": True, "bytes": False}]
    load(sorted_so, words(2_000))
    same(sorted_so, tmp_path / "german")
    # In Windows-1252 the sign of the euro comes before all accented letters, in UTF-8 after them.
    postgresql.execute("CREATE DATABASE windows TEMPLATE template0 ENCODING 'WIN1252' LOCALE 'C'")
    encoded_so = open_postgresql(postgresql.url("windows") + "&client_encoding=UTF8", tmp_path)
    load(encoded_so, [f"{letter}{number}" for letter in "aé€ÿ" for number in range(100)])
    same(encoded_so, tmp_path / "windows")


def test_keys_of_other_types_are_cut_as_text(database: PostgreSQLWarehouse) -> None:
    kinds = {"UUID": "md5(n::text)::uuid", "CHAR(9)": "n::text", "OID": "n::oid", "SMALLINT": "n - 300", "NAME": "n"}
    for kind, value in kinds.items():
        sql = f"SELECT ({value})::{kind} AS k, n FROM generate_series(1, 600) AS n -- $no"
        with database.stream(sql) as reader:
            sample = tuple(str(key) for key in reader.read_all()["k"].to_pylist())
        with database.streams(sql, None, KeyRanges("k", 3, sample)) as readers:
            read = [reader.read_all()["n"].to_pylist() for reader in readers]
        assert sorted(chain(*read)) == list(range(1, 601)), kind
        assert [len(part) > 100 for part in read] == [True] * 3, kind


def test_a_key_that_changed_its_type_or_left_is_no_reason_to_fail(database: PostgreSQLWarehouse) -> None:
    sql = "SELECT n AS k FROM generate_series(1, 90) AS n"
    samples = [("a", "b", "c"), ("1" * 30, "-" * 5, "٣"), ("", "30", "60"), ("\0", "40", "x"), ("7",) * 9, ()]
    for column, sample in [*(("k", sample) for sample in samples), ("gone", ("a", "b")), ("k" * 90, ("a", "b"))]:
        with database.streams(sql, None, KeyRanges(column, 3, sample)) as readers:
            assert sorted(key for reader in readers for key in reader.read_all()["k"].to_pylist()) == [*range(1, 91)]


def test_each_range_has_a_connection_of_its_own(database: PostgreSQLWarehouse, tmp_path: Path) -> None:
    load(database, words(1_000))
    with database.streams(PROCESS, None, KeyRanges("id", 4, tuple(words(1_000)))) as readers:
        tables = list(ThreadPoolExecutor(4).map(lambda reader: reader.read_all(), readers))
    processes = [set(table["process"].to_pylist()) for table in tables]
    assert [len(found) for found in processes] == [1] * 4
    assert len(set.union(*processes)) == 4
    assert [200 < table.num_rows < 300 for table in tables] == [True] * 4
    assert same(database, tmp_path / "lake", sql=PROCESS).ignored == ("process",)


STATEMENTS = [
    "WITH c AS (SELECT * FROM source.book WHERE opened <= $as_of) SELECT c.* FROM c ORDER BY income DESC -- all of it",
    "SELECT * FROM source.book /* ; ' */ ORDER BY id;",
    "(SELECT * FROM source.book WHERE id < 'L0000500') UNION ALL (SELECT * FROM source.book WHERE id >= 'L0000500')",
    "TABLE source.book",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_any_select_can_be_cut(database: PostgreSQLWarehouse, tmp_path: Path, sql: str) -> None:
    load(database, good(1_000)["id"].to_pylist())
    assert same(database, tmp_path, sql=sql).rows == 1_000


def test_the_index_of_a_whole_number_serves(postgresql: Server) -> None:
    name = postgresql.create_database()
    postgresql.execute(
        "CREATE TABLE t AS SELECT CAST(n AS INTEGER) AS id FROM generate_series(1, 50000) AS n",
        "CREATE INDEX ON t (id)",
        "VACUUM ANALYZE t",
        database=name,
    )
    ranges = KeyRanges("id", 50, tuple(str(number) for number in range(1, 50_000, 50)))
    parts = cut("SELECT id FROM t", pa.schema({"id": pa.int32()}), ranges)
    with psycopg.connect(postgresql.url(name)) as connection:
        plans = [str(connection.execute(f"EXPLAIN {part}".encode()).fetchall()) for part in parts]
    assert len(plans) == 50
    assert all("Index" in plan and "Seq Scan" not in plan for plan in plans), plans


# one state


def test_what_is_written_meanwhile_changes_nothing(
    database: PostgreSQLWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(database, good(4_000)["id"].to_pylist())
    plain = extract(database, tmp_path)
    ranges = lake.key_ranges(SPLIT, tmp_path)
    opened, connect = 0, database.connector.open

    def change(key: str) -> None:
        with connect(autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM source.book WHERE id LIKE '%7'")
            cursor.execute("UPDATE source.book SET id = 'A' || id, income = -1 WHERE id LIKE '%3'")
            cursor.execute(f"INSERT INTO source.book SELECT '{key}', opened, region FROM source.book LIMIT 1")

    @contextmanager
    def disturbed(*, autocommit: bool = False) -> Iterator[Any]:
        """Between the first connection, which has the snapshot, and those that read."""
        nonlocal opened
        opened += 1
        if opened == 2:
            change("L0000001x")
        with connect(autocommit=autocommit) as connection:
            yield connection

    monkeypatch.setattr(database.connector, "open", disturbed)
    with database.streams(BOOK, None, ranges) as readers:
        assert (len(readers), opened) == (4, 5)
        change("M")
        found = lake.extract(
            readers, SPLIT, AS_OF, tmp_path / "again", "q" * 64, memory_mb=256, threads=1, progress=lambda *_: None
        )
    assert found.extract_hash == plain.extract_hash
    assert extract(database, tmp_path / "later", SPLIT, ranges=ranges).extract_hash != plain.extract_hash


# what is wrong


def test_keys_that_are_missing_or_doubled_are_told_as_ever(database: PostgreSQLWarehouse, tmp_path: Path) -> None:
    ids = good(1_000)["id"].to_pylist()
    load(database, ids)
    extract(database, tmp_path)
    ranges = lake.key_ranges(SPLIT, tmp_path)
    for changed, said in (
        ([None, *ids[1:-1], None], "column id, as of 2025-06-30: 2 of 1,000 rows have no value in this key"),
        ([*ids[:-2], ids[0], ids[500]], "comes more than once for L0000000, L0000500"),
    ):
        load(database, changed)
        for asked in (KeyRanges("id"), ranges):
            with pytest.raises(DataError, match=said):
                extract(database, tmp_path, SPLIT, ranges=asked)
    assert not list(tmp_path.rglob(".scratch-*"))


def test_a_column_that_comes_twice_or_not_at_all_is_told_as_ever(database: PostgreSQLWarehouse, tmp_path: Path) -> None:
    load(database, good()["id"].to_pylist())
    ranges = KeyRanges("id", 2, ("L0000001", "L0000003"))
    for sql, said in (
        ("SELECT *, 'x' AS id FROM source.book", "column id: .*twice"),
        ("SELECT id AS ids, opened, region FROM source.book", "did you mean 'ids'"),
    ):
        with pytest.raises(DataError, match=said):
            extract(database, tmp_path, SPLIT, sql, ranges)


BROKEN = [
    "1 / (CASE WHEN id = 'L0000000' THEN 0 ELSE 1 END)",
    "1 / (CASE WHEN id = 'L0019999' THEN 0 ELSE 1 END)",
    "CAST(CASE WHEN id = 'L0009999' THEN 'x' ELSE '1' END AS INTEGER)",
]


@pytest.mark.parametrize("expression", BROKEN)
def test_what_fails_in_one_range_is_told_as_by_one_stream(
    database: PostgreSQLWarehouse, tmp_path: Path, expression: str
) -> None:
    ids = good(20_000)["id"].to_pylist()
    load(database, ids)
    sql, told = f"SELECT *, {expression} AS one FROM source.book", []
    for ranges in (KeyRanges("id"), KeyRanges("id", 4, tuple(ids))):
        with pytest.raises(MetariskError, match=r"(division by zero|invalid input syntax).*Remedy: ") as caught:
            extract(database, tmp_path, SPLIT, sql, ranges)
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]
    assert not list(tmp_path.rglob(".scratch-*"))
    assert nobody_else(database)


def test_a_connection_that_is_cut_is_told(postgresql: Server, tmp_path: Path) -> None:
    name = postgresql.create_database()
    database = on(postgresql, tmp_path, name)
    ids = good(20_000)["id"].to_pylist()
    load(database, ids, channel=pa.array(["x" * 1_000] * 20_000))
    ranges = KeyRanges("id", 4, tuple(ids))
    with pytest.raises(WarehouseError, match=r"cannot be reached|shutting down"):  # noqa: SIM117
        with database.streams(BOOK, None, ranges) as readers:
            postgresql.cut(name)
            lake.extract(readers, SPLIT, AS_OF, tmp_path, "q" * 64, memory_mb=256, threads=1, progress=lambda *_: None)
    assert not list(tmp_path.rglob(".scratch-*"))
    assert extract(database, tmp_path, SPLIT, ranges=ranges).rows == 20_000


def test_a_range_that_is_done_may_lose_its_connection(postgresql: Server, tmp_path: Path) -> None:
    """As by `idle_in_transaction_session_timeout`, while the others go on."""
    name = postgresql.create_database()
    database = on(postgresql, tmp_path, name)
    ids = good(2_000)["id"].to_pylist()
    load(database, ids)
    with database.streams(BOOK, None, KeyRanges("id", 4, tuple(ids))) as readers:
        rows = sum(reader.read_all().num_rows for reader in readers)
        postgresql.cut(name)
    assert rows == 2_000


def test_ranges_may_be_left_early(database: PostgreSQLWarehouse) -> None:
    ids = good(20_000)["id"].to_pylist()
    load(database, ids)
    with pytest.raises(ZeroDivisionError), database.streams(BOOK, None, KeyRanges("id", 4, tuple(ids))) as readers:
        assert readers[2].read_next_batch().num_rows
        raise ZeroDivisionError
    assert nobody_else(database)


def nobody_else(database: PostgreSQLWarehouse) -> bool:
    """Whether no other client of the database is left; the server ends a session a little after its client."""
    sql = (
        "SELECT count(*) AS n FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    deadline = time.monotonic() + 60
    while left := int(database.rows(sql)[0]["n"]):
        if time.monotonic() > deadline:
            break
    return left == 0


def test_writing_through_ranges_is_refused(warehouse: Warehouse) -> None:
    written = "SELECT count(*) AS n FROM metarisk.view_set"
    before = warehouse.rows(written)
    with warehouse.transaction() as transaction:
        transaction.execute("CREATE SEQUENCE counter")
    for sql in WRITES:
        for column in ("seq", "n", "a"):
            with pytest.raises(ConfigError), warehouse.streams(sql, None, KeyRanges(column, 2, ("1", "2"))) as readers:
                for reader in readers:
                    reader.read_all()
    assert warehouse.rows(written) == before


def test_sql_that_would_be_right_only_in_brackets_is_refused(database: PostgreSQLWarehouse) -> None:
    sql = "SELECT 1 AS a) AS x CROSS JOIN (SELECT 2 AS b"
    with pytest.raises(MetariskError), database.streams(sql, None, KeyRanges("a", 2, ("1", "2"))):
        pass
