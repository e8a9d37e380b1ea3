"""The warehouse: `open_warehouse` gives DuckDB or PostgreSQL behind `domain.Warehouse`, chosen by a URL's scheme.

What the tables mean is in docs/data-dictionary.md; their only definition is in sql/migrations and sql/views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from metarisk.domain import ConfigError, Warehouse
from metarisk.warehouse import duckdb, postgresql

__all__ = ["BACKENDS", "open_warehouse"]

BACKENDS: Mapping[str, Callable[..., Warehouse | None]] = {"duckdb": duckdb.opened, "postgresql": postgresql.opened}
"""By the scheme of a URL: (url, data_dir, *, threads, memory_mb, timezone) to a warehouse; None: no URL of this one."""


def open_warehouse(url: str, data_dir: Path, *, threads: int, memory_mb: int, timezone: str = "UTC") -> Warehouse:
    """The warehouse that `url` names; nothing is opened yet. Raises ConfigError, which never shows the URL.

    `duckdb:///FILE` is relative to `data_dir`, `duckdb:////FILE` absolute; `postgresql://...` is libpq's own URL.
    Every session runs in `timezone`, an IANA name: there a time with a zone has its day and is compared with a DATE.
    """
    scheme = url.partition("://")[0]
    found = None
    if scheme in BACKENDS and scheme != url:
        found = BACKENDS[scheme](url, data_dir, threads=threads, memory_mb=memory_mb, timezone=timezone)
    if found is not None:
        return found
    raise ConfigError(
        f"METARISK_WAREHOUSE has the scheme {scheme[:20]!r}" if "://" in url else "METARISK_WAREHOUSE is no URL",
        remedy="write duckdb:///FILE, duckdb:////ABSOLUTE/FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
    )
