"""A warehouse that is locked, busy, down, missing, read-only, full or damaged says so, with a remedy and no secret."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import stat
import tempfile
import threading
import traceback
from collections.abc import Iterator
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pytest

from metarisk.domain import ConfigError, LockedError, MetariskError, Warehouse, WarehouseError
from metarisk.warehouse import open_warehouse
from metarisk.warehouse.duckdb import file as duckfile
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.warehouses import Server, address, child, open_duckdb, open_postgresql, publish_night, schema

NIGHT = date(2026, 3, 31)

# locks

HOLD = """
import sys
from pathlib import Path
from metarisk.warehouse import open_warehouse
from metarisk.warehouse.duckdb import file as duckfile
warehouse = open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=128)
with warehouse.lock("loans"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_excludes_by_name_and_says_who_holds_it(warehouse: Warehouse) -> None:
    with warehouse.lock("loans"):
        with pytest.raises(LockedError, match=rf"'loans' is held by .*pid {os.getpid()} on .* since 20"):
            warehouse.lock("loans").__enter__()
        with warehouse.lock("cards"), warehouse.lock("loans/../'; DROP"):
            pass
    with warehouse.lock("loans"):
        pass


def test_a_lock_is_free_after_an_exception(warehouse: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError), warehouse.lock("loans"):
        raise ZeroDivisionError
    with warehouse.lock("loans"):
        pass


def test_a_lock_is_waited_for(warehouse: Warehouse) -> None:
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with warehouse.lock("loans"):
            taken.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    with pytest.raises(LockedError), warehouse.lock("loans", wait_seconds=0.05):
        pass
    threading.Timer(0.05, release.set).start()
    with warehouse.lock("loans", wait_seconds=60):
        assert release.is_set()
    holder.join()


def test_a_killed_holder_frees_its_lock(warehouse: Warehouse, tmp_path: Path) -> None:
    with child(HOLD, *address(warehouse, tmp_path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"pid {holder.pid} on"), warehouse.lock("loans"):
            pass
        holder.kill()
        holder.wait()
        with warehouse.lock("loans", wait_seconds=60):
            pass


# a busy file

OPEN = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
connection.close()
print("closed", flush=True)
"""


def test_a_file_that_another_process_holds_is_named_then_waited_for(tmp_path: Path) -> None:
    warehouse = DuckDBWarehouse(tmp_path / "w.duckdb", tmp_path, threads=1, memory_mb=128, busy_seconds=0.05)
    patient = DuckDBWarehouse(tmp_path / "w.duckdb", tmp_path, threads=1, memory_mb=128, busy_seconds=60)
    warehouse.migrate(*schema())
    with child(OPEN, str(warehouse.path)) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(WarehouseError, match=rf"not free for 0.05 s: .*pid {other.pid}.*Remedy: close"):
            warehouse.rows("SELECT 1 AS one")
        with pytest.raises(WarehouseError, match="not free"), warehouse.transaction():
            pass
        other.stdin.write("\n")
        other.stdin.flush()
        assert patient.rows("SELECT 1 AS one") == [{"one": 1}]


def test_between_statements_the_file_is_free_and_its_instance_serves_the_next(
    embedded: DuckDBWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, start = [], duckfile.memory_instance
    monkeypatch.setattr(duckfile, "memory_instance", lambda limits: started.append(limits) or start(limits))
    embedded.rows("SELECT 1 AS one")
    with child(OPEN, str(embedded.path)) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        other.communicate("\n")
    started.clear()
    with embedded.transaction() as transaction:
        transaction.execute("CREATE TABLE other AS SELECT 1 AS one")
    assert embedded.rows("SELECT one FROM other") == [{"one": 1}]
    assert started == []
    with pytest.raises(ConfigError):
        embedded.rows("SELECT one FROM nowhere")
    assert embedded.rows("SELECT one FROM other") == [{"one": 1}]
    assert len(started) == 1  # one with an error behind it serves nobody else
    narrow = DuckDBWarehouse(embedded.path, tmp_path, threads=1, memory_mb=128)
    assert narrow.rows("SELECT current_setting('memory_limit') AS most") == [{"most": "122.0 MiB"}]
    assert len(started) == 2


def test_a_fork_has_an_instance_of_its_own(embedded: DuckDBWarehouse) -> None:
    embedded.rows("SELECT 1 AS one")
    process = get_context("fork").Process(target=embedded.rows, args=("SELECT 1 AS one",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert embedded.rows("SELECT 1 AS one") == [{"one": 1}]


# missing, damaged, read-only, full


def test_a_missing_or_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match=r"does not exist yet.*Remedy: load or seed"):
        open_duckdb(tmp_path).rows("SELECT 1 AS one")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "warehouse.duckdb").write_bytes(b"no database" * 5000)
    with pytest.raises(WarehouseError, match=r"no file this DuckDB can read.*Remedy: restore"):
        open_duckdb(tmp_path).rows("SELECT 1 AS one")
    (tmp_path / "file").touch()
    with (
        pytest.raises(WarehouseError),
        open_warehouse("duckdb:///file/below/a/file.duckdb", tmp_path, threads=1, memory_mb=128).transaction(),
    ):
        pass


WRITE_AS_NOBODY = """
import os, sys
from pathlib import Path
from metarisk.warehouse import open_warehouse
from metarisk.warehouse.duckdb import file as duckfile
from metarisk.domain import WarehouseError
warehouse = open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=128)
if os.geteuid() == 0:
    os.seteuid(65534)
print(warehouse.rows("SELECT count(*) AS n FROM metarisk.view_set")[0]["n"])
try:
    with warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.view_set")
except WarehouseError as error:
    print(error)
"""


def test_a_file_without_the_right_to_write_is_read_but_not_written() -> None:
    folder = Path(tempfile.mkdtemp(prefix="metarisk-ro-"))
    try:
        warehouse = open_duckdb(folder)
        warehouse.migrate(*schema())
        url, data = address(warehouse, folder)
        spill = folder / "tmp" / "duckdb"
        spill.chmod(0o777)
        (folder / "warehouse.duckdb").chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        folder.chmod(0o555)
        with child(WRITE_AS_NOBODY, url, data) as reader:
            printed, _ = reader.communicate()
        assert printed.startswith("2\n")
        assert "is read-only" in printed
        assert "Remedy: let this user write the file and its folder" in printed
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


FILL = """
import resource, sys
from datetime import date
from pathlib import Path
from metarisk.warehouse import open_warehouse
from metarisk.warehouse.duckdb import file as duckfile
from metarisk.domain import WarehouseError
from tests.warehouses import scores
warehouse = open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=128)
resource.setrlimit(resource.RLIMIT_FSIZE, (warehouse.path.stat().st_size + (1 << 20), resource.RLIM_INFINITY))
try:
    with warehouse.transaction() as transaction:
        batches = (scores(date(2026, 3, 31), f"r{n}", "loans", n / 7, 50_000) for n in range(200))
        transaction.append("metarisk.risk_score", batches)
except WarehouseError as error:
    print(error)
"""


def test_a_full_disk_is_named_and_nothing_is_kept(embedded: DuckDBWarehouse, tmp_path: Path) -> None:
    publish_night(embedded, NIGHT, run_id="r1")
    with child(FILL, *address(embedded, tmp_path)) as writer:
        printed, _ = writer.communicate()
    assert "is full" in printed
    assert "Remedy: free disk space" in printed
    assert embedded.rows("SELECT count(*) AS n FROM metarisk.risk_score") == [{"n": 3}]


@pytest.mark.xdist_group("postgresql")
def test_what_the_server_refuses_is_named(postgresql: Server, migrated_template: str, tmp_path: Path) -> None:
    name = postgresql.create_database(migrated_template)
    warehouse = open_postgresql(postgresql.url(name), tmp_path)
    postgresql.execute(
        "CREATE FUNCTION fail(state text) RETURNS int LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = state; END $$",
        "CREATE ROLE stranger LOGIN",
        database=name,
    )
    states = {
        "53100": (WarehouseError, "is full"),
        "53300": (WarehouseError, "no connection left"),
        "57014": (WarehouseError, "cancelled the statement"),
        "57P01": (WarehouseError, "shutting down"),
        "40001": (WarehouseError, "in each other's way"),
        "55P03": (WarehouseError, "is busy"),
        "XX000": (WarehouseError, "failed"),
        "23514": (MetariskError, "refuses the data"),
    }
    for state, (kind, words) in states.items():
        with pytest.raises(kind, match=rf"{words}.*\(so it is\).*Remedy: "), warehouse.transaction() as transaction:
            transaction.execute("SELECT fail($state)", {"state": state})
    stranger = open_postgresql(postgresql.url(name, user="stranger"), tmp_path)
    with pytest.raises(WarehouseError, match="denies the right"):
        stranger.rows("SELECT * FROM metarisk.run")
    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(WarehouseError, match="is read-only"), warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.run")


@pytest.mark.xdist_group("postgresql")
def test_a_connection_that_is_cut_leaves_nothing_and_the_next_works(
    postgresql: Server, migrated_template: str, tmp_path: Path
) -> None:
    name = postgresql.create_database(migrated_template)
    warehouse = open_postgresql(postgresql.url(name), tmp_path)
    with (
        pytest.raises(WarehouseError, match=r"cannot be reached|shutting down"),
        warehouse.transaction() as transaction,
    ):
        transaction.execute("DELETE FROM metarisk.view_set")
        postgresql.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        transaction.rows("SELECT 1 AS one")
    assert warehouse.rows("SELECT count(*) AS n FROM metarisk.view_set") == [{"n": 2}]


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        yield int(taken.getsockname()[1])


def test_a_server_that_is_down(unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarisk.warehouse.postgresql.connect.FIRST_PAUSE", 0.001)
    urls = (
        f"postgresql://bob:s3cret%2Fword@127.0.0.1:{unused_port}/risk",
        f"postgresql://bob@/risk?host={tmp_path}&password=s3cret%2Fword",
        "postgresql://bob:s3cret%2Fword@127.0.0.1:s3cret%2Fword/risk",
        "postgresql://bob:s3cret%2Fword@[::1/risk",
        "postgresql://bob:s3cret%2Fword@127.0.0.1/risk?colour=s3cret%2Fword",
    )
    for url in urls:
        with pytest.raises((WarehouseError, ConfigError), match="Remedy: ") as caught:
            warehouse = open_warehouse(url, tmp_path, threads=1, memory_mb=128)
            assert "s3cret" not in repr(warehouse)
            warehouse.rows("SELECT 1 AS one")
        said = "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in said
        assert "word" not in str(caught.value).replace("password", "")


def test_a_url_is_never_pickled(tmp_path: Path) -> None:
    warehouse = open_warehouse("postgresql://bob:s3cret@host/db", tmp_path, threads=1, memory_mb=128)
    with pytest.raises(TypeError, match="open it again"):
        pickle.dumps(warehouse)
