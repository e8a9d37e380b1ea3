"""A week and a night of the market portfolio on generated prices, from bars to pages and views."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from pydantic import SecretStr

from metarisk import jobs
from metarisk.domain import Job, Warehouse
from metarisk.jobs import Context, NightResult, Quiet
from metarisk.markets import prices
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.warehouses import ROOT, schema

FRIDAY, MONDAY = date(2025, 6, 27), date(2025, 6, 30)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Warehouse, NightResult]]:
    """A warehouse after a week of few candidates and a night."""
    project: Path = tmp_path_factory.mktemp("market")
    for folder in ("sql", "expectations"):
        shutil.copytree(ROOT / folder, project / folder)
    toml = (ROOT / "portfolios" / "market_vol.toml").read_text("utf-8")
    toml = toml.replace("folds = 2", "folds = 1\nheld_out = false")
    toml = toml.replace('risk = "market"', 'risk = "market"\ncandidates = ["ewma", "har", "episodic"]')
    (project / "portfolios").mkdir()
    (project / "portfolios" / "market_vol.toml").write_text(
        toml.replace("[[targets]]", "[options]\ngarch = false\n\n[[targets]]")
    )
    settings = Settings(project=project, data=project / "var", warehouse=SecretStr("duckdb:///w.duckdb"), threads=1)
    warehouse = open_warehouse("duckdb:///w.duckdb", settings.data_dir, threads=1, memory_mb=512)
    warehouse.migrate(*schema(project / "sql"))
    for name, reader in prices.generate(0.25).items():
        warehouse.load(f"source.{name}", reader)
    week = jobs.weekly(Context(Job("market_vol", FRIDAY), settings, Quiet()))
    assert week.promoted
    yield warehouse, jobs.nightly(Context(Job("market_vol", MONDAY), settings, Quiet()))


def test_every_asset_that_trades_has_its_risks(done: tuple[Warehouse, NightResult]) -> None:
    """One row an asset in the view, the one that never trades and the delisted one not among them."""
    warehouse, night = done
    assert night.outcome == "published"
    rows = warehouse.rows("SELECT * FROM metarisk.market_risk_current ORDER BY entity")
    assets = [row["entity"] for row in rows]
    assert len(assets) == night.rows_scored
    assert not {"H007", "H004"} & set(assets)
    assert all(0 < row["vol_1d"] < row["var_95_1d"] < row["var_99_1d"] for row in rows)


def test_bad_bars_are_set_aside_with_a_remedy_and_others_publish(done: tuple[Warehouse, NightResult]) -> None:
    """Every rule on bars that the demo breaks is a warning with its rows and words of what to do."""
    warehouse, _ = done
    broken = warehouse.rows(
        "SELECT rule, failing_rows FROM metarisk.quality_result "
        "WHERE as_of = $day AND severity = 'warning' AND NOT success",
        {"day": MONDAY},
    )
    found = {row["rule"].split(":")[0]: row["failing_rows"] for row in broken}
    assert found["prices are above zero"] == 1
    assert found["the high is not below the low"] == 1
    assert found["an asset has one bar a day; of copies that differ nobody knows which is right"] == 2
    assert len(found) >= 6


def test_measures_and_sections_of_the_night(done: tuple[Warehouse, NightResult]) -> None:
    """Books, back-tests and unknown positions are in the table and on the page."""
    warehouse, night = done
    kinds = {row["kind"] for row in warehouse.rows("SELECT DISTINCT kind FROM metarisk.measure_current")}
    assert kinds == {"book", "forecast", "position", "traffic_light", "var_backtest", "volatility"}
    page = night.page
    assert page is not None
    text = page.read_text("utf-8")
    for words in ("Value at risk on days that are over", "Traffic light of each asset", "growth: no price of ZZZZ"):
        assert words in text


def test_drift_watches_what_assets_have_of_their_own(done: tuple[Warehouse, NightResult]) -> None:
    """Features that all rows of a date share are one observation, and no finding."""
    warehouse, _ = done
    rows = warehouse.rows("SELECT DISTINCT feature FROM metarisk.drift_metric WHERE metric = 'psi'")
    watched = {row["feature"] for row in rows}
    assert "vol_22" in watched
    assert not {name for name in watched if name.startswith("market_")}


def test_drift_of_the_score_is_that_of_the_score(done: tuple[Warehouse, NightResult]) -> None:
    """The target has the name of its outcome, and no outcome of a night is known."""
    warehouse, _ = done
    (row,) = warehouse.rows(
        "SELECT status, n_cur, detail FROM metarisk.drift_metric "
        "WHERE metric = 'psi' AND feature = 'variance_1d' AND segment IS NULL"
    )
    assert row["n_cur"] > 0
    assert "missing" not in (row["detail"] or "")
    assert row["status"] != "alert"
