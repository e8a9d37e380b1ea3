"""Both warehouses keep the same promises: streams, transactions, appends, loads, refusals and errors."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from metarisk.domain import ConfigError, DataError, Warehouse, WarehouseError
from tests.warehouses import MIGRATIONS, VIEWS, publish_night, scores, table

NIGHT = date(2026, 3, 31)


def test_a_published_night_is_read_back(warehouse: Warehouse) -> None:
    publish_night(warehouse, NIGHT, run_id="r1", score=0.2)
    rows = warehouse.rows(
        "SELECT entity, score FROM metarisk.score_current WHERE as_of = $as_of ORDER BY entity", {"as_of": NIGHT}
    )
    assert rows == [{"entity": f"loan-{n}", "score": pytest.approx(0.2 + n / 1000)} for n in range(3)]


def test_migrating_again_does_nothing(warehouse: Warehouse) -> None:
    assert warehouse.migrate(MIGRATIONS, VIEWS) == []
