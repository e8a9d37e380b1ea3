"""Connections to PostgreSQL: opened with retries, with the session settings that this job relies on.

What is asked over them is in `postgresql`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import adbc_driver_postgresql as driver
from adbc_driver_manager import AdbcConnection, AdbcDatabase, dbapi

from metarisk.warehouse.backoff import backoff
from metarisk.warehouse.postgresql.errors import as_ours, explained, is_refused, secrets_of
from metarisk.warehouse.statements import literal

FIRST_PAUSE = 0.2
"""Seconds before the second try to connect; the tests shorten it."""
_TRIES = 5
_DEFAULTS = {
    "application_name": "metarisk",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_SESSION = ("SET standard_conforming_strings = on", "SET client_encoding = 'UTF8'")
"""Whatever role and database prefer: Arrow's texts are UTF-8."""


class Connector:
    """Opens connections to one URL, which it shows to nobody."""

    def __init__(self, url: str, timezone: str = "UTC") -> None:
        given = parse_qs(urlsplit(url).query)
        added = {name: value for name, value in _DEFAULTS.items() if name not in given}
        self._url = url + ("&" if given else "?") + urlencode(added, quote_via=quote)
        self.secrets = secrets_of(url)
        self._session = (f"SET TimeZone = {literal(timezone)}", *_SESSION)
        self._database: AdbcDatabase | None = None
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return "Connector(...)"

    def __reduce__(self) -> str:
        raise TypeError("a warehouse is not pickled, for its URL may hold a password: open it again from the settings")

    @contextmanager
    def open(self, *, autocommit: bool = False) -> Iterator[dbapi.Connection]:
        """A connection of one's own, closed (and rolled back) after the block.

        A server that refuses for the moment is asked again, five times in all; then WarehouseError.
        """
        connection = self._connect(autocommit)
        try:
            with explained(self.secrets):
                for setting in self._session:
                    execute(connection, setting)
            yield connection
        finally:
            with suppress(dbapi.Error, RuntimeError):  # a connection that was cut cannot be closed in order
                connection.close()

    def _connect(self, autocommit: bool) -> dbapi.Connection:
        pauses = backoff(FIRST_PAUSE, 2.0)
        for left in reversed(range(_TRIES)):
            try:
                return dbapi.Connection(_KeptOpen(), AdbcConnection(self._opened()), autocommit=autocommit)
            except (dbapi.Error, OSError) as error:
                if left == 0 or not is_refused(error):
                    raise as_ours(error, self.secrets) from None
            time.sleep(next(pauses))
        raise AssertionError("unreachable")

    def _opened(self) -> AdbcDatabase:
        """The driver's database handle: the server's types, which take 50 ms to read, and no connection."""
        with self._guard:
            if self._database is None:
                self._database = driver.connect(self._url)
            return self._database


class _KeptOpen:
    """Stands for the database handle where a connection would close it together with itself."""

    def close(self) -> None: ...


def execute(connection: dbapi.Connection, statement: str) -> None:
    """Run one statement whose result, if it has one, nobody wants."""
    with closing(connection.cursor()) as cursor:
        # Otherwise a statement with a result would run, and fail, only as its result is read.
        cursor.adbc_statement.set_options(**{driver.StatementOptions.USE_COPY.value: "false"})
        cursor.execute(statement)
