"""The server warehouse: PostgreSQL through ADBC, Arrow in and out."""

from __future__ import annotations

from pathlib import Path

from metarisk.domain import ConfigError, Warehouse
from metarisk.warehouse.postgresql.warehouse import PostgreSQLWarehouse

__all__ = ["PostgreSQLWarehouse", "opened"]


def opened(url: str, data_dir: Path, *, threads: int, memory_mb: int, timezone: str) -> Warehouse | None:
    """See `warehouse.BACKENDS`. Raises ConfigError where host or port are none."""
    if url == "postgresql://":
        return None
    try:
        return PostgreSQLWarehouse(url, timezone)
    except ValueError as error:  # of urllib; it names the part that is wrong
        raise ConfigError(f"METARISK_WAREHOUSE is no URL ({error})", remedy="correct host and port") from None
