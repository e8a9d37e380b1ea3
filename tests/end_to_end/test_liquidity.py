"""A week and two nights of the liquidity portfolio on generated prices, from bars to pages and views."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from metarisk import jobs
from metarisk.answers.replay import reproduce
from metarisk.domain import Job, Warehouse
from metarisk.jobs import Context, NightResult, Quiet
from metarisk.markets import prices
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.warehouses import ROOT, schema

FRIDAY, MONDAY, TUESDAY = date(2025, 6, 27), date(2025, 6, 30), date(2025, 7, 1)
SINCE = date(2024, 7, 1)
Done = tuple[Settings, Warehouse, NightResult]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A warehouse after a week of few candidates and two nights; the last night."""
    project: Path = tmp_path_factory.mktemp("liquidity")
    for folder in ("sql", "expectations"):
        shutil.copytree(ROOT / folder, project / folder)
    (project / "portfolios").mkdir()
    toml = (ROOT / "portfolios" / "liquidity_5d.toml").read_text("utf-8")
    toml = toml.replace("folds = 2", "folds = 1\nheld_out = false")
    toml = toml.replace('risk = "liquidity"', 'risk = "liquidity"\ncandidates = ["ewma", "relative"]')
    (project / "portfolios" / "liquidity_5d.toml").write_text(toml)
    settings = Settings(project=project, data=project / "var", warehouse=SecretStr("duckdb:///w.duckdb"), threads=1)
    warehouse = open_warehouse("duckdb:///w.duckdb", settings.data_dir, threads=1, memory_mb=512)
    warehouse.migrate(*schema(project / "sql"))
    for name, reader in prices.generate(0.25).items():
        rows = pl.DataFrame(reader.read_all())
        if name == "market_bars":
            rows = rows.filter(pl.col("day") >= SINCE)
        warehouse.load(f"source.{name}", rows.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
    assert jobs.weekly(Context(Job("liquidity_5d", FRIDAY), settings, Quiet())).promoted
    nights = [jobs.nightly(Context(Job("liquidity_5d", day), settings, Quiet())) for day in (MONDAY, TUESDAY)]
    assert [night.outcome for night in nights] == ["published", "published"]
    yield settings, warehouse, nights[-1]


def test_every_asset_that_trades_is_published(done: Done) -> None:
    """One row an asset in the view: not the one that never trades, nor the delisted one; a new listing is there."""
    _, warehouse, night = done
    rows = warehouse.rows("SELECT * FROM metarisk.liquidity_current ORDER BY entity")
    assets = [row["entity"] for row in rows]
    assert len(assets) == night.rows_scored
    assert not {"H007", "H004"} & set(assets)
    assert "A007" in assets  # listed six days before
    assert all(row["amihud_5d"] > 0 and 0 < row["exit_cost_99"] < row["lvar_99_1d"] < 1 for row in rows)


def test_positions_have_days_and_losses(done: Done) -> None:
    """A block of four times the size takes four times as long; an asset that nobody scores is named with a remedy."""
    _, warehouse, _ = done
    rows = warehouse.rows("SELECT * FROM metarisk.liquidity_position_current WHERE book = 'blocks'")
    assert {row["asset"] for row in rows} == {"H000", "H001", "H002", "H003", "H005", "H006"}
    assert all(row["days"] > 0 and row["lvar_99_1d"] > row["var_99_1d"] > 0 for row in rows)
    assert max(row["days"] for row in rows) > 5
    assert all(row["lvar_99_exit"] >= row["lvar_99_1d"] - 1e-6 for row in rows)
    notes = warehouse.rows(
        "SELECT item, note FROM metarisk.measure_current WHERE kind = 'position' ORDER BY item, note"
    )
    assert {row["item"] for row in notes} == {"ZZZZ", "H007", "H004"}
    assert all("Correct its name" in row["note"] for row in notes)


def test_bad_bars_are_set_aside_with_a_remedy(done: Done) -> None:
    """Every rule that the demo breaks is a warning with its rows, and the others publish."""
    _, warehouse, _ = done
    broken = warehouse.rows(
        "SELECT rule, failing_rows FROM metarisk.quality_result "
        "WHERE as_of = $day AND portfolio = 'liquidity_5d' AND severity = 'warning' AND NOT success",
        {"day": TUESDAY},
    )
    found = {row["rule"].split(":")[0].split(";")[0]: row["failing_rows"] for row in broken}
    assert found["prices are above zero"] == 1
    assert found["the high is not below the low"] == 1
    assert found["an asset has one bar a day"] == 2
    assert found["no share has changed hands for 120 days"] > 200


def test_the_page_drift_and_a_second_time(done: Done) -> None:
    """Sections of the page, features that drift watches, and the night again to the last bit."""
    settings, warehouse, night = done
    assert night.page is not None
    text = night.page.read_text("utf-8")
    for words in ("Days to liquidate", "Liquidity of books", "growth: no price of ZZZZ"):
        assert words in text
    rows = warehouse.rows("SELECT DISTINCT feature FROM metarisk.drift_metric WHERE metric = 'psi'")
    assert {"illiq_22", "value_22", "sector_illiq"} <= {row["feature"] for row in rows}
    assert not reproduce(Context(Job("liquidity_5d", TUESDAY), settings, Quiet()), night.run_id).differences
