"""A DuckDB file, opened only while a statement or a transaction needs it, and shared by the threads of this process.

DuckDB lets one process write a file or several read it, and one process open it one way at a time. What is asked of the
opened file is not known here.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from metarisk.domain import ConfigError, DataError, MetariskError, WarehouseError
from metarisk.warehouse.backoff import backoff
from metarisk.warehouse.statements import ZONE_REMEDY, literal

CATALOG = "warehouse"
"""The name under which every connection has the file attached; a file name could clash with a schema's."""


@dataclass(frozen=True)
class Limits:
    """What DuckDB may use: threads, memory in MB, a folder to spill to, and seconds to wait for another process."""

    threads: int
    memory_mb: int
    spill: Path
    busy_seconds: float = 300.0


class DuckFile:
    """The one opened instance of a file in this process, counted by its users.

    A reader takes whatever is open, or opens read-only. A writer needs the file open for writing: it waits until the
    readers of this process are done (reads are short, their results go to a spool), and none that comes later goes
    before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._root: duckdb.DuckDBPyConnection | None = None
        self._limits: Limits | None = None
        self._sound = self._writable = False
        self._users = 0
        self._writers_waiting = 0

    @contextmanager
    def cursor(self, limits: Limits, *, write: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor with the file as its default catalog. Raises WarehouseError when others hold the file too long."""
        root, sound = self._enter(limits, write), False
        try:
            cursor = root.cursor()
            try:
                cursor.execute(f"USE {CATALOG}")
                yield cursor
            finally:
                cursor.close()
            sound = True
        finally:
            self._leave(sound)

    def rewrite(self, limits: Limits) -> None:
        """Copy the file to another that takes its place: what was deleted is in no block of it.

        Whoever waits for the file gets the new one: the old one is locked until the new one, locked too, has its name.
        """
        beside = self.path.with_suffix(".rewriting.duckdb")
        with self._changed:
            if not self._changed.wait_for(lambda: self._root is None, limits.busy_seconds):
                raise _busy(self.path, "this process reads it", limits)
            beside.unlink(missing_ok=True)
            root = _open(self.path, limits, True, time.monotonic() + limits.busy_seconds)
            try:
                root.execute("SET GLOBAL preserve_insertion_order = true")
                root.execute(f"CHECKPOINT {CATALOG}")
                root.execute(f"ATTACH {literal(str(beside))} AS fresh")
                root.execute(f"COPY FROM DATABASE {CATALOG} TO fresh")
                root.execute("CHECKPOINT fresh")
                beside.replace(self.path)
                root.execute(f"DETACH {CATALOG}")
            finally:
                root.close()
                beside.unlink(missing_ok=True)

    def _enter(self, limits: Limits, write: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + limits.busy_seconds
        with self._changed:
            self._writers_waiting += write
            try:
                ready = self._changed.wait_for(lambda: self._may_enter(write), limits.busy_seconds)
            finally:
                self._writers_waiting -= write
            if not ready:
                raise _busy(self.path, "this process reads it", limits)
            if self._root is None:
                self._root, self._writable = _open(self.path, limits, write, deadline), write
                self._limits, self._sound = limits, True
            self._users += 1
            return self._root

    def _may_enter(self, write: bool) -> bool:
        if self._root is None:
            return write or not self._writers_waiting
        return self._writable or (not write and not self._writers_waiting)

    def _leave(self, sound: bool) -> None:
        with self._changed:
            self._users -= 1
            self._sound &= sound
            if self._users == 0 and self._root is not None and self._limits is not None:
                root, self._root = self._root, None
                if self._sound:
                    _IDLE.keep(self._limits, root)
                else:
                    root.close()
            self._changed.notify_all()


class _Idle:
    """The last instance that served a file without an error, empty again: a new one costs more than most statements."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._kept: tuple[Limits, duckdb.DuckDBPyConnection] | None = None
        os.register_at_fork(before=self.drop)  # its threads would not be in the child

    def take(self, limits: Limits) -> duckdb.DuckDBPyConnection:
        """The one kept, where its limits are these, else a new one."""
        with self._guard:
            kept, self._kept = self._kept, None
        if kept is not None and kept[0] == limits:
            limits.spill.mkdir(parents=True, exist_ok=True)
            return kept[1]
        if kept is not None:
            kept[1].close()
        return memory_instance(limits)

    def keep(self, limits: Limits, instance: duckdb.DuckDBPyConnection) -> None:
        """Let go of its file, and keep it in place of the one before."""
        try:
            instance.execute(f"DETACH {CATALOG}")
        except duckdb.Error:
            instance.close()
            return
        with self._guard:
            before, self._kept = self._kept, (limits, instance)
        if before is not None:
            before[1].close()

    def drop(self) -> None:
        """Keep none."""
        with self._guard:
            before, self._kept = self._kept, None
        if before is not None:
            before[1].close()


_IDLE = _Idle()


_FILES: dict[tuple[int, Path], DuckFile] = {}
_FILES_GUARD = threading.Lock()


def duck_file(path: Path) -> DuckFile:
    """The file's one DuckFile in this process (a fork is another process)."""
    with _FILES_GUARD:
        return _FILES.setdefault((os.getpid(), path), DuckFile(path))


def memory_instance(limits: Limits) -> duckdb.DuckDBPyConnection:
    """An empty instance within the limits, to which files are attached; it fetches nothing from a network."""
    limits.spill.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": limits.threads,
            "memory_limit": f"{limits.memory_mb}MB",
            "temp_directory": str(limits.spill),
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,
            "preserve_insertion_order": False,
        },
    )
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


def _open(path: Path, limits: Limits, write: bool, deadline: float) -> duckdb.DuckDBPyConnection:
    if not write and not path.exists():
        raise WarehouseError(
            f"the warehouse {path} does not exist yet",
            remedy="load or seed the source tables, or correct METARISK_WAREHOUSE and METARISK_DATA",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = _IDLE.take(limits)
        attach = f"ATTACH {literal(str(path))} AS {CATALOG}{'' if write else ' (READ_ONLY)'}"
        pauses = backoff()
        while True:
            try:
                root.execute(attach)
                return root
            except duckdb.IOException as error:
                if "lock on file" not in str(error):
                    raise
                if time.monotonic() >= deadline:
                    raise _busy(path, _conflict(error), limits) from None
                time.sleep(next(pauses))
    except (duckdb.Error, OSError) as error:
        raise as_ours(error, path) from None


def _conflict(error: duckdb.Error) -> str:
    found = re.search(r"held in (\S+) \(PID (\d+)\)", str(error))
    return f"{Path(found[1]).name}, pid {found[2]}, has it open" if found else "another process has it open"


def _busy(path: Path, holder: str, limits: Limits) -> WarehouseError:
    return WarehouseError(
        f"the warehouse {path} was not free for {limits.busy_seconds:g} s: {holder}",
        remedy="close that program (BI reads the snapshot file beside it), or move to PostgreSQL",
    )


_REMEDIES = (
    (r"No space left|File too large|disk is full|max_temp_directory_size", "full", "free disk space, then run again"),
    (r"read-only|Permission denied|Read-only file", "read-only", "let this user write the file and its folder"),
    (r"lock on file", "in use", "close the program that has it open"),
    (r"not a valid DuckDB|serialize|version number|checksum|corrupt", "no file this DuckDB can read",
     "restore it from a backup, or upgrade DuckDB"),
    (r"already attached|different configuration", "open in this process by other means",
     "close that connection and use this warehouse's own"),
    (r"does not exist|No such file", "missing", "correct METARISK_WAREHOUSE or load the source tables"),
)  # fmt: skip


def as_ours(error: duckdb.Error | OSError, path: Path, *, reading: bool = False) -> MetariskError:
    """The native exception as an error of this job, with the remedy; `reading`: the transaction was read-only by us."""
    said = str(error).strip().split("\n")[0]
    if reading and re.search("attached in read-only mode|transaction is launched in read-only mode", said):
        return ConfigError(f"the SQL writes ({said})", remedy="write one SELECT or WITH ... SELECT that only reads")
    if "Unknown TimeZone" in said:
        return ConfigError(f"DuckDB does not know the time zone ({said})", remedy=ZONE_REMEDY)
    if isinstance(error, duckdb.OutOfMemoryException) and "max_temp_directory_size" not in said:
        return WarehouseError(f"DuckDB ran out of memory ({said})", remedy="raise METARISK_MEMORY_MB")
    if isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException) and (
        "already attached" not in said
    ):
        return ConfigError(f"DuckDB refuses the SQL ({said})", remedy="correct the statement, or create what it names")
    if isinstance(error, duckdb.ConstraintException | duckdb.DataError | duckdb.ConversionException):
        return DataError(f"DuckDB refuses the data ({said})", remedy="correct the values at their source")
    if isinstance(error, duckdb.TransactionException) and "onflict" in said:
        return WarehouseError(f"another transaction changed the same rows ({said})", remedy="run again")
    for pattern, state, remedy in _REMEDIES:
        if re.search(pattern, str(error)):
            return WarehouseError(f"the warehouse {path} is {state} ({said})", remedy=remedy)
    return WarehouseError(f"the warehouse {path} failed ({said})", remedy="look at the file, its disk and its rights")


@contextmanager
def explained(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn native exceptions of the block into this job's errors; the native text may quote data, so no chain."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise as_ours(error, path, reading=reading) from None
