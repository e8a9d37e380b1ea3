"""The embedded warehouse: one DuckDB file, and the file beside it that BI reads."""

from __future__ import annotations

from pathlib import Path

from metarisk.domain import Warehouse
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse

__all__ = ["DuckDBWarehouse", "opened"]


def opened(url: str, data_dir: Path, *, threads: int, memory_mb: int, timezone: str) -> Warehouse | None:
    """See `warehouse.BACKENDS`."""
    rest = url.removeprefix("duckdb://")
    if not rest.startswith("/") or len(rest) == 1:
        return None
    return DuckDBWarehouse(data_dir / rest[1:], data_dir, threads=threads, memory_mb=memory_mb, timezone=timezone)
