"""The warehouse: `open_warehouse` gives DuckDB or PostgreSQL behind `domain.Warehouse`, chosen by a URL's scheme.

What the tables mean is in docs/data-dictionary.md; their only definition is in sql/migrations and sql/views.
"""

from __future__ import annotations

from pathlib import Path

from metarisk.domain import ConfigError, Warehouse
from metarisk.warehouse.duckdb import DuckDBWarehouse
from metarisk.warehouse.postgresql import PostgreSQLWarehouse

__all__ = ["open_warehouse"]


def open_warehouse(url: str, data_dir: Path, *, threads: int, memory_mb: int, timezone: str = "UTC") -> Warehouse:
    """The warehouse that `url` names; nothing is opened yet. Raises ConfigError, which never shows the URL.

    `duckdb:///FILE` is relative to `data_dir`, `duckdb:////FILE` absolute; `postgresql://...` is libpq's own URL.
    Every session runs in `timezone`, an IANA name: there a time with a zone has its day and is compared with a DATE.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "postgresql" and rest:
        try:
            return PostgreSQLWarehouse(url, timezone)
        except ValueError as error:  # of urllib; it names the part that is wrong
            raise ConfigError(f"METARISK_WAREHOUSE is no URL ({error})", remedy="correct host and port") from None
    if scheme == "duckdb" and rest.startswith("/") and len(rest) > 1:
        return DuckDBWarehouse(data_dir / rest[1:], data_dir, threads=threads, memory_mb=memory_mb, timezone=timezone)
    raise ConfigError(
        f"METARISK_WAREHOUSE has the scheme {scheme[:20]!r}" if "://" in url else "METARISK_WAREHOUSE is no URL",
        remedy="write duckdb:///FILE, duckdb:////ABSOLUTE/FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
    )
