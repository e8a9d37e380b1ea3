"""What PostgreSQL and its driver say, as errors of this job with a remedy; passwords never pass.

Only SQLSTATE and the server's own first line are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from adbc_driver_manager import dbapi

from metarisk.domain import ConfigError, DataError, MetariskError, WarehouseError
from metarisk.warehouse.statements import ZONE_REMEDY

_DOWN = "check that the server runs, that METARISK_WAREHOUSE names it, and run again"
_STATES: Sequence[tuple[str, type[MetariskError], str, str]] = (
    ("25006", WarehouseError, "is read-only", "connect to the primary, or give the role the right to write"),
    ("53100", WarehouseError, "is full", "free disk space on the server, then run again"),
    ("534", WarehouseError, "is at a configured limit", "raise the limit on the server"),
    ("53300", WarehouseError, "has no connection left", "raise max_connections or end idle sessions"),
    ("53", WarehouseError, "has too few resources", "give the server memory, or run fewer jobs at once"),
    ("55P03", WarehouseError, "is busy", "run again when the other session is done"),
    ("57014", WarehouseError, "cancelled the statement", "raise statement_timeout, or run again"),
    ("57", WarehouseError, "is shutting down or starting", _DOWN),
    ("08", WarehouseError, "cannot be reached", _DOWN),
    ("28", WarehouseError, "refuses the user", "correct the user and password in METARISK_WAREHOUSE"),
    ("40", WarehouseError, "had two transactions in each other's way", "run again"),
    ("42501", WarehouseError, "denies the right", "grant it to the role of METARISK_WAREHOUSE"),
    ("2BP01", ConfigError, "has objects that depend on it", "drop what was built upon it, then run again"),
    ("3D", WarehouseError, "has no such database", "create it, or correct METARISK_WAREHOUSE"),
    ("0A", ConfigError, "refuses the SQL", "correct the statement"),
    ("42", ConfigError, "refuses the SQL", "correct the statement, or create what it names"),
    ("21", DataError, "refuses the data", "correct the rows at their source, or the SQL that takes one of several"),
    ("22", DataError, "refuses the data", "correct the values at their source"),
    ("23", DataError, "refuses the data", "correct the values at their source"),
)
"""SQLSTATE prefixes, longer ones before the shorter that they are exceptions of."""
_SAYINGS = (
    (r"read-write mode|read-only transaction", "25006"),
    (r"No space left|temp_file_limit", "53100"),
    (r"canceling statement", "57014"),
    (r"authentication failed|no password supplied|role .* does not exist|no pg_hba.conf", "28000"),
    (r"database .* does not exist", "3D000"),
    (r"too many clients|remaining connection slots", "53300"),
    (r"starting up|shutting down|recovery mode", "57P03"),
    (r"Failed to connect|Connection refused|No such file|could not translate|timeout expired|closed the connection"
     r"|server closed|no connection to the server|terminating connection|Broken pipe|connection not open", "08006"),
)  # fmt: skip


def secrets_of(url: str) -> tuple[str, ...]:
    """The passwords in a URL, as written and decoded, so that they can be struck out of what libpq says."""
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    written = [userinfo.partition(":")[2], *parse_qs(parts.query).get("password", [])]
    return tuple(sorted({text for word in written for text in (word, unquote(word)) if text}, key=len, reverse=True))


def is_refused(error: Exception) -> bool:
    """Whether a connection failed in a way that may pass: refused, starting up, too many clients."""
    return _sqlstate(error)[:2] in {"08", "57"} or _sqlstate(error) == "53300"


def as_ours(error: Exception, secrets: Sequence[str] = (), *, reading: bool = False) -> MetariskError:
    """The native exception as an error of this job, with the remedy; `reading`: the connection was read-only by us."""
    said, state = _said(error, secrets), _sqlstate(error)
    if reading and state in {"25001", "25006"}:
        return ConfigError(f"the SQL writes ({said})", remedy="write one SELECT or WITH ... SELECT that only reads")
    if 'parameter "TimeZone"' in said:
        return ConfigError(f"PostgreSQL does not know the time zone ({said})", remedy=ZONE_REMEDY)
    for prefix, kind, what, remedy in _STATES:
        if state.startswith(prefix):
            return kind(f"PostgreSQL {what} ({said})", remedy=remedy)
    return WarehouseError(f"PostgreSQL failed ({said})", remedy="look at the server's log")


@contextmanager
def explained(secrets: Sequence[str], *, reading: bool = False) -> Iterator[None]:
    """Turn native exceptions of the block into this job's; the native text quotes the statement, so no chain."""
    try:
        yield
    except (dbapi.Error, pa.ArrowException, OSError) as error:
        raise as_ours(error, secrets, reading=reading) from None


def _sqlstate(error: Exception) -> str:
    state = getattr(error, "sqlstate", None)
    if state:
        return str(state)
    text = str(error)
    found = re.search(r"SQLSTATE: ([0-9A-Z]{5})", text)
    if found:
        return found[1]
    # What Arrow itself finds wrong with a batch has no SQLSTATE.
    default = "22000" if isinstance(error, pa.ArrowException) else ""
    return next((code for pattern, code in _SAYINGS if re.search(pattern, text)), default)


def _said(error: Exception, secrets: Sequence[str]) -> str:
    text = str(error)
    found = re.search(r"(?:ERROR|FATAL):\s+([^\n]*)", text)
    line = found[1] if found else text.strip().split("\n")[0]
    for secret in secrets:
        line = line.replace(secret, "***")
    return line.strip()
