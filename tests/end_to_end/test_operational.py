"""Operational losses through the real pipeline: a week, a night, what it publishes, and the MSHA study."""

from __future__ import annotations

import os
import shutil
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from metarisk import jobs
from metarisk.domain import Job
from metarisk.jobs import Context, Quiet
from metarisk.risks.operational import book as demo
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.end_to_end.tiny import REPOSITORY

DATA = Path(os.environ.get("METARISK_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "operational_msha"
CUT_OFF, NIGHT = date(2025, 6, 29), date(2025, 7, 1)
"""A quarter begins between them."""
CELLS = 10


def settings_in(folder: Path, portfolio: str, candidates: tuple[str, ...]) -> Settings:
    """A project of its own in which few candidates compete."""
    for name in ("portfolios", "expectations", "sql"):
        shutil.copytree(REPOSITORY / name, folder / name)
    toml = folder / "portfolios" / f"{portfolio}.toml"
    toml.write_text(f"candidates = {list(candidates)}\n" + toml.read_text())
    return Settings(project=folder, warehouse=SecretStr("duckdb:///warehouse.duckdb"), threads=1, memory_mb=512)


def test_a_week_and_a_night(tmp_path: Path) -> None:
    """Of two business lines in half of the demo's sites."""
    settings = settings_in(tmp_path, "operational_losses", ("segment_rates", "segment_head"))
    toml = tmp_path / "portfolios" / "operational_losses.toml"
    toml.write_text(toml.read_text().replace("folds = 4", "folds = 1\nheld_out = false"))
    for name in ("operational_losses.sql", "operational_losses_amounts.sql"):
        sql = tmp_path / "sql" / "extracts" / name
        sql.write_text(sql.read_text().rstrip() + " AND x.business_line IN ('payments', 'advice')\n")
    warehouse = open_warehouse("duckdb:///warehouse.duckdb", settings.data_dir, threads=1, memory_mb=512)
    for name, reader in demo.generate(0.5).items():
        warehouse.load(name, reader)
    assert jobs.weekly(Context(Job("operational_losses", CUT_OFF), settings, Quiet())).promoted
    result = jobs.nightly(Context(Job("operational_losses", NIGHT), settings, Quiet()))
    assert result.outcome == "published"
    assert result.page is not None
    page = result.page.read_text()
    for said in ("Economic capital", "Loss events", "Mean excess", "Tails against the exponential", "Remedy:"):
        assert said in page, said
    rows = pl.DataFrame(warehouse.rows("SELECT * FROM metarisk.capital_current"))
    assert set(rows["as_of"]) == {NIGHT}
    sums = rows.filter(pl.col("item").str.starts_with("all cells")).sort("year_999")
    cells = rows.filter(~pl.col("item").str.starts_with("all cells"))
    assert sums["item"].to_list() == ["all cells, independent", "all cells, correlation 0.20"]
    assert cells.height == CELLS
    assert (rows["year_999_low"] < rows["year_999"]).all()
    assert (rows["year_999"] < rows["year_999_high"]).all()
    assert sums["expected_loss"].to_list() == pytest.approx([cells["expected_loss"].sum()] * 2)
    scores = pl.DataFrame(warehouse.rows("SELECT entity, segment, target, score FROM metarisk.score_current"))
    expected = scores.filter(target="expected_loss_12m")
    assert expected["score"].sum() == pytest.approx(cells["expected_loss"].sum())
    assert expected.height == scores.filter(target="events_3m").height == 2 * 4 * 5
    bounds = pl.DataFrame(
        warehouse.rows("SELECT item, metric, value, note FROM metarisk.measure_current WHERE kind = 'frequency'")
    )
    (quiet,) = bounds.filter(item="advice|damage", metric="bound_year").to_dicts()
    assert "no event so far" in quiet["note"]
    assert bounds.filter(item="advice|damage", metric="events_known")["value"].to_list() == [0.0]
    exposures = pl.DataFrame(demo.generate(0.5)["demo_op_exposures"].read_all())
    wrong = exposures.filter(
        (pl.col("exposure") <= 0)
        & (pl.col("quarter_start") <= NIGHT)
        & pl.col("business_line").is_in(["payments", "advice"])
    )
    (run,) = warehouse.rows("SELECT rows_quarantined FROM metarisk.night")
    assert run["rows_quarantined"] == wrong.height > 0
    drift = warehouse.rows("SELECT DISTINCT feature FROM metarisk.drift_metric")
    assert {"staff_turnover", "events_3m"} <= {row["feature"] for row in drift}


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the mines are not in {DATA}")
def test_injuries_in_mines(tmp_path: Path) -> None:
    names = ("segment_rates", "segment_head")
    settings = settings_in(tmp_path, "msha_injuries", names)
    warehouse = open_warehouse("duckdb:///warehouse.duckdb", settings.data_dir, threads=1, memory_mb=512)
    frame = pl.read_parquet(DATA / "mine_years.parquet")
    mines = frame.rename({name: name.lower() for name in frame.columns}).with_columns(
        id=pl.format("M{}", pl.int_range(pl.len())),
        opened_on=pl.date(pl.col("year"), 1, 1),
        known_date=pl.date(pl.col("year"), 12, 31),
    )
    warehouse.load("mine_years", mines.drop("year").to_arrow().to_reader())
    judged = jobs.evaluate(Context(Job("msha_injuries", date(2016, 12, 29)), settings, Quiet()))
    found = {candidate.name: candidate for candidate in judged.evidence.candidates}
    assert judged.evidence.rows == frame.filter(pl.col("YEAR") == 2015).height
    assert found["segment_head"].metrics["poisson_deviance"] < 0.65
    assert found["segment_rates"].metrics["poisson_deviance"] > 0.67
    assert found["segment_head"].against_opponent.high < 0
