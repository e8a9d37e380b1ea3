"""Both warehouses keep the same promises: streams, transactions, appends, loads and refusals."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from metarisk.domain import ConfigError, DataError, Warehouse
from metarisk.warehouse import open_warehouse
from metarisk.warehouse.duckdb import warehouse as duckdb
from tests.warehouses import Server, address, child, insert, open_postgresql, publish_night, scores, table

NIGHT = date(2026, 3, 31)
SCORE = "metarisk.risk_score"


def count(warehouse: Warehouse, name: str = SCORE) -> int:
    return int(warehouse.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"])


def reader(*batches: pa.RecordBatch) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(batches[0].schema, iter(batches))


# reading


def test_types_arrive_alike(warehouse: Warehouse) -> None:
    sql = """
        SELECT CAST('1.25' AS NUMERIC(9, 2)) AS amount, TIMESTAMPTZ '2026-03-29 03:30:00+02:00' AS seen,
               TIMESTAMP '2026-03-29 03:30:00' AS local, DATE '2026-03-29' AS day, CAST(7 AS BIGINT) AS n,
               CAST('00000000-0000-0000-0000-00000000002a' AS UUID) AS id, TRUE AS yes, CAST(NULL AS TEXT) AS nothing,
               CAST('a' AS TEXT) AS word, CAST(2 AS INTEGER) AS small
    """
    with warehouse.stream(sql) as stream:
        rows = stream.read_all()
    assert rows.schema == pa.schema(
        {
            "amount": pa.float64(),
            "seen": pa.timestamp("us", "UTC"),
            "local": pa.timestamp("us"),
            "day": pa.date32(),
            "n": pa.int64(),
            "id": pa.string(),
            "yes": pa.bool_(),
            "nothing": pa.string(),
            "word": pa.string(),
            "small": pa.int32(),
        }
    )
    assert rows.to_pylist() == [
        {
            "amount": 1.25,
            "seen": datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
            "local": datetime.fromisoformat("2026-03-29T03:30:00"),
            "day": date(2026, 3, 29),
            "n": 7,
            "id": str(uuid.UUID(int=42)),
            "yes": True,
            "nothing": None,
            "word": "a",
            "small": 2,
        }
    ]


def test_an_infinite_date_is_refused_by_name(warehouse: Warehouse) -> None:
    for kind in ("DATE", "TIMESTAMP", "TIMESTAMPTZ"):
        with pytest.raises(DataError, match=r"column closed: .*infinity"):
            warehouse.rows(f"SELECT CAST('infinity' AS {kind}) AS closed")


def test_a_column_name_used_twice_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(DataError, match=r"column a: .*twice"):
        warehouse.rows("SELECT 1 AS a, 2 AS a")


def test_a_stream_comes_in_batches_of_at_most_the_size_asked(warehouse: Warehouse) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", entities=2500)
    with warehouse.stream(f"SELECT entity FROM {SCORE}", batch_rows=1000) as stream:
        sizes = [batch.num_rows for batch in stream]
    assert sum(sizes) == 2500
    assert max(sizes) <= 1000


def test_a_stream_may_be_left_early(warehouse: Warehouse) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", entities=5000)
    with warehouse.stream(f"SELECT entity FROM {SCORE}", batch_rows=10) as stream:
        assert stream.read_next_batch().num_rows == 10
    assert count(warehouse) == 5000


def test_an_empty_result_keeps_its_schema(warehouse: Warehouse) -> None:
    with warehouse.stream(f"SELECT entity, score FROM {SCORE}") as stream:
        rows = stream.read_all()
    assert rows.num_rows == 0
    assert rows.schema == pa.schema({"entity": pa.string(), "score": pa.float64()})


def test_as_of_is_a_typed_date(warehouse: Warehouse) -> None:
    sql = "SELECT CAST($as_of - 1 AS DATE) AS eve, $as_of AS night, '$as_of' AS quoted -- $not_here"
    assert warehouse.rows(sql, {"as_of": NIGHT}) == [{"eve": date(2026, 3, 30), "night": NIGHT, "quoted": "$as_of"}]


def test_a_missing_parameter_is_named(warehouse: Warehouse) -> None:
    with pytest.raises(ConfigError, match=r"uses \$since, which is not given \(\$as_of here\)"):
        warehouse.rows("SELECT $as_of, $since", {"as_of": NIGHT})


WRITES = [
    "INSERT INTO metarisk.view_set VALUES (99, 'x', now())",
    "DELETE FROM metarisk.view_set",
    "CREATE TABLE source.t (a INTEGER)",
    "DROP VIEW metarisk.night",
    "SELECT 1 AS a; DELETE FROM metarisk.view_set",
    "SELECT 1 AS a) TO STDOUT; DELETE FROM metarisk.view_set; COPY (SELECT 1 AS a",
    "WITH gone AS (DELETE FROM metarisk.view_set RETURNING seq) SELECT * FROM gone",
    "COPY metarisk.view_set TO '/tmp/stolen.csv'",
    "SET TRANSACTION READ WRITE",
    "COMMIT",
    "EXPLAIN ANALYZE DELETE FROM metarisk.view_set",
    "/* SELECT */ DELETE FROM metarisk.view_set",
    "SELECT nextval('counter') AS n",
    "",
]


def test_writing_through_a_read_is_refused(warehouse: Warehouse) -> None:
    before = count(warehouse, "metarisk.view_set")
    with warehouse.transaction() as transaction:
        transaction.execute("CREATE SEQUENCE counter")
    for sql in WRITES:
        with pytest.raises(ConfigError), warehouse.stream(sql) as stream:
            stream.read_all()
    with pytest.raises(ConfigError):
        warehouse.rows(WRITES[0])
    assert count(warehouse, "metarisk.view_set") == before


def test_a_read_beside_an_open_transaction_writes_nothing_either(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        transaction.execute("CREATE SEQUENCE counter")
    with warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.view_set")
        with pytest.raises(ConfigError):
            warehouse.rows("SELECT nextval('counter') AS n")
    with warehouse.transaction() as transaction:
        assert transaction.rows("SELECT nextval('counter') AS n") == [{"n": 1}]


@pytest.mark.xdist_group("postgresql")
def test_a_read_only_transaction_cannot_be_reopened_for_writing(postgresql: Server, tmp_path: Path) -> None:
    warehouse = open_postgresql(postgresql.url(), tmp_path)
    with pytest.raises(ConfigError, match="writes"):
        warehouse.rows("SELECT set_config('transaction_read_only', 'off', true) AS off")


def test_bad_sql_is_a_configuration_error(warehouse: Warehouse) -> None:
    for sql in ("SELECT nothing_here FROM metarisk.run", "SELECT * FROM source.missing", "SELECT FROM FROM"):
        with pytest.raises(ConfigError, match=r"Remedy: "):
            warehouse.rows(sql)


# writing


def test_a_failed_block_writes_nothing(warehouse: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError), warehouse.transaction() as transaction:
        transaction.append(SCORE, [scores(NIGHT, "r1", "loans", 0.1, 10)])
        assert transaction.rows(f"SELECT count(*) AS n FROM {SCORE}") == [{"n": 10}]
        assert count(warehouse) == 0
        raise ZeroDivisionError
    assert count(warehouse) == 0


def test_an_oserror_of_the_caller_stays_what_it_is(warehouse: Warehouse) -> None:
    with pytest.raises(FileNotFoundError), warehouse.transaction():
        raise FileNotFoundError("the caller's own")


def test_a_transaction_may_start_while_a_stream_is_read(warehouse: Warehouse) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", entities=3000)
    with warehouse.stream(f"SELECT * FROM {SCORE}", batch_rows=500) as stream:
        first = stream.read_next_batch()
        with warehouse.transaction() as transaction:
            transaction.append(SCORE, [scores(NIGHT, "r2", "loans", 0.1, 7)])
        rest = sum(batch.num_rows for batch in stream)
    assert first.num_rows + rest == 3000
    assert count(warehouse) == 3007


def test_a_stream_may_feed_an_append(warehouse: Warehouse) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", entities=3000)
    with warehouse.transaction() as transaction, warehouse.stream(f"SELECT * FROM {SCORE}") as stream:
        renamed = (batch.set_column(0, "run_id", pa.array(["r2"] * batch.num_rows)) for batch in stream)
        assert transaction.append(SCORE, renamed) == 3000
    assert count(warehouse) == 6000


def test_threads_read_and_write_at_once(warehouse: Warehouse) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(3):
                run_id = f"r{number}-{step}"
                with warehouse.transaction() as transaction:
                    transaction.append(SCORE, [scores(NIGHT, run_id, "loans", 0.1, 20)])
                found = warehouse.rows(f"SELECT count(*) AS n FROM {SCORE} WHERE run_id = $run_id", {"run_id": run_id})
                assert found == [{"n": 20}]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert count(warehouse) == 180


def test_appended_columns_go_by_name_and_the_rest_is_null(warehouse: Warehouse) -> None:
    batch = scores(NIGHT, "r1", "loans", 0.25, 1)
    backwards = batch.select(batch.schema.names[::-1])
    dictionary = backwards.set_column(
        backwards.schema.get_field_index("segment"), "segment", backwards.column("segment").dictionary_encode()
    )
    with warehouse.transaction() as transaction:
        assert transaction.append(SCORE, [dictionary, dictionary.slice(0, 0)]) == 1
        assert transaction.append(SCORE, []) == 0
    (row,) = warehouse.rows(f"SELECT segment, score, grade, as_of FROM {SCORE}")
    assert row == {"segment": "north|auto", "score": 0.25, "grade": None, "as_of": NIGHT}


def test_a_column_that_does_not_fit_is_named(warehouse: Warehouse) -> None:
    good = scores(NIGHT, "r1", "loans", 0.25, 2)
    wrong_type = good.set_column(good.schema.get_field_index("score"), "score", pa.array(["a", "b"]))
    without = good.drop_columns(["entity"])
    null = good.set_column(good.schema.get_field_index("entity"), "entity", pa.array(["a", None]))
    cases: list[tuple[list[pa.RecordBatch], str]] = [
        ([good.append_column("extra", pa.array([1, 2]))], "column extra: .*no such column"),
        ([wrong_type], "column score: string does not fit double"),
        ([good, without], "the first had"),
        ([without], "entity"),
        ([null], "entity"),
    ]
    for batches, message in cases:
        with pytest.raises(DataError, match=message), warehouse.transaction() as transaction:
            transaction.append(SCORE, batches)
    assert count(warehouse) == 0


def test_an_exception_of_the_batches_comes_through_and_nothing_is_kept(warehouse: Warehouse) -> None:
    class Broken(Exception):
        pass

    def batches() -> Iterator[pa.RecordBatch]:
        yield scores(NIGHT, "r1", "loans", 0.1, 100)
        raise Broken

    with pytest.raises(Broken), warehouse.transaction() as transaction:
        transaction.append(SCORE, batches())
    assert count(warehouse) == 0


def test_rows_of_many_statements_come_whole_or_not_at_all(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb, "_ROWS_A_STATEMENT", 250)

    def batches(number: int, *, torn: bool = False) -> Iterator[pa.RecordBatch]:
        for run in range(number):
            yield scores(NIGHT, f"r{run}", "loans", 0.1, 100)
        if torn:
            raise OSError("truncated")

    with pytest.raises(OSError, match="truncated"), warehouse.transaction() as transaction:
        transaction.append(SCORE, batches(7, torn=True))
    assert count(warehouse) == 0
    for number in (6, 7):  # 6: the last statement has no row
        with warehouse.transaction() as transaction:
            assert transaction.append(SCORE, batches(number)) == 100 * number
            transaction.execute(f"DELETE FROM {SCORE} WHERE run_id = 'r5'")
        assert count(warehouse) == 100 * (number - 1)
        with warehouse.transaction() as transaction:
            transaction.execute(f"DELETE FROM {SCORE}")
    loaded = table(id=list(range(100)))
    assert warehouse.load("loans", reader(*[loaded] * 6)) == count(warehouse, "source.loans") == 600


def test_an_append_holds_few_of_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = open_warehouse("duckdb:///long.duckdb", tmp_path, threads=2, memory_mb=256)
    warehouse.load("long", reader(table(id=[1], a=["a"], b=["b"], c=["c"], d=["d"])))
    monkeypatch.setattr(duckdb, "_ROWS_A_STATEMENT", 40_000)
    sizes, peak = [], 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal peak
        for number in range(100):
            words = [f"{number}-{row} is what this row says of itself" for row in range(4_000)]
            batch = table(id=list(range(4_000)), **dict.fromkeys("abcd", words))
            sizes.append(batch.nbytes)
            peak = max(peak, pa.total_allocated_bytes() - before)
            yield batch

    before = pa.total_allocated_bytes()
    with warehouse.transaction() as transaction:
        assert transaction.append("source.long", batches()) == 400_000
    assert peak < sum(sizes) / 4


@pytest.mark.xdist_group("postgresql")
def test_partitions_are_made_by_month(postgresql: Server, migrated_template: str, tmp_path: Path) -> None:
    warehouse = open_postgresql(postgresql.url(postgresql.create_database(migrated_template)), tmp_path)
    days = [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 31), date(2026, 3, 1)]
    mixed = pa.Table.from_batches([scores(day, "r1", "loans", 0.1, 1) for day in days]).combine_chunks().to_batches()
    with warehouse.transaction() as transaction:
        assert transaction.append(SCORE, mixed) == 4
    parts = warehouse.rows(
        "SELECT c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'metarisk.risk_score'::regclass ORDER BY 1"
    )
    assert [(row["name"], row["bounds"]) for row in parts] == [
        ("risk_score_2025_12", "FOR VALUES FROM ('2025-12-01') TO ('2026-01-01')"),
        ("risk_score_2026_01", "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"),
        ("risk_score_2026_03", "FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')"),
    ]
    with pytest.raises(DataError, match="duplicate key"), warehouse.transaction() as transaction:
        transaction.append(SCORE, mixed)


def test_load_replaces_a_source_table(warehouse: Warehouse) -> None:
    first = table(id=[1, 2, 3], amount=[Decimal("1.50"), None, Decimal("2.25")], day=[NIGHT, None, NIGHT])
    assert warehouse.load("source.loans", reader(first)) == 3
    assert warehouse.load("loans", reader(first.slice(0, 1), first.slice(2, 1))) == 2
    rows = warehouse.rows("SELECT * FROM source.loans ORDER BY id")
    assert rows == [{"id": 1, "amount": 1.5, "day": NIGHT}, {"id": 3, "amount": 2.25, "day": NIGHT}]


def test_a_load_that_breaks_leaves_the_table_as_it_was(warehouse: Warehouse) -> None:
    good = table(id=[1, 2, 3])
    warehouse.load("loans", reader(good))

    def torn() -> Iterator[pa.RecordBatch]:
        yield good
        raise OSError("truncated")

    with pytest.raises(OSError, match="truncated"):
        warehouse.load("loans", pa.RecordBatchReader.from_batches(good.schema, torn()))
    assert count(warehouse, "source.loans") == 3


def test_load_writes_no_other_schema(warehouse: Warehouse) -> None:
    for name in ("metarisk.run", "public.x", "main.x", "source.", ".x", "source.a\0b", "source." + "x" * 64):
        with pytest.raises(ConfigError):
            warehouse.load(name, reader(table(id=[1])))


def test_constraints_hold_on_both(warehouse: Warehouse) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", at=datetime(2026, 4, 1, tzinfo=UTC))
    for column, value in (("seq", 1), ("published_at", datetime(2026, 4, 1, tzinfo=UTC)), ("seq", 0)):
        row = {"portfolio": "loans", "as_of": NIGHT, "seq": 2, "run_id": "r2", "published_at": datetime.now(UTC)}
        with pytest.raises(DataError), warehouse.transaction() as transaction:
            insert(transaction, "metarisk.publication", **{**row, column: value})


# whole nights


REPUBLISH = """
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from metarisk.warehouse import open_warehouse
from tests.warehouses import publish_night
warehouse = open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=256)
for number in range(1, 5):
    at = datetime(2026, 4, 1, tzinfo=UTC) + timedelta(hours=number)
    publish_night(warehouse, date(2026, 3, 31), run_id=f"r{number}", score=number, entities=500 + number, at=at)
"""


def test_a_reader_sees_the_old_night_or_the_new_one_whole(warehouse: Warehouse, tmp_path: Path) -> None:
    publish_night(warehouse, NIGHT, run_id="r0", score=0.0, entities=500, at=datetime(2026, 4, 1, tzinfo=UTC))
    seen = set()
    with child(REPUBLISH, *address(warehouse, tmp_path)) as writer:
        while writer.poll() is None:
            (row,) = warehouse.rows(
                "SELECT count(*) AS n, count(DISTINCT run_id) AS runs, max(run_id) AS run FROM metarisk.score_current"
            )
            assert row["runs"] == 1
            assert row["n"] == 500 + int(row["run"][1:])
            seen.add(row["run"])
    assert writer.returncode == 0
    assert warehouse.rows("SELECT max(score_high) AS s FROM metarisk.score_current") == [{"s": 8.0}]
    assert len(seen) >= 2


HANG_INSIDE = """
import sys
from datetime import date
from pathlib import Path
from metarisk.warehouse import open_warehouse
from tests.warehouses import scores
warehouse = open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=256)
with warehouse.transaction() as transaction:
    transaction.append("metarisk.risk_score", [scores(date(2026, 3, 31), "torn", "loans", 0.5, 20_000)])
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_writer_killed_before_commit_leaves_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", entities=5)
    with child(HANG_INSIDE, *address(warehouse, tmp_path)) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "inside\n"
        writer.kill()
    assert count(warehouse) == 5
    publish_night(warehouse, NIGHT, run_id="r2", entities=5, at=datetime(2026, 5, 1, tzinfo=UTC))
    assert count(warehouse) == 10


# opening


@pytest.mark.parametrize("url", ["", "warehouse.duckdb", "duckdb://x", "duckdb:///", "sqlite:///x", "postgresql://"])
def test_other_urls_are_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="METARISK_WAREHOUSE"):
        open_warehouse(url, tmp_path, threads=1, memory_mb=128)
    with pytest.raises(ConfigError) as caught:
        open_warehouse("mysql://bob:s3cret@host/db", tmp_path, threads=1, memory_mb=128)
    assert "s3cret" not in str(caught.value)


def test_duckdb_urls_are_relative_to_the_data_folder_or_absolute(tmp_path: Path) -> None:
    for url, path in (("duckdb:///a/b.duckdb", "data/a/b.duckdb"), (f"duckdb:///{tmp_path}/c.duckdb", "c.duckdb")):
        warehouse = open_warehouse(url, tmp_path / "data", threads=1, memory_mb=128)
        with warehouse.transaction() as transaction:
            transaction.execute("CREATE TABLE t AS SELECT 1 AS a")
        assert (tmp_path / path).is_file()
