"""The portfolio `lending_club` on real loans: a week with few candidates, and one night."""

from __future__ import annotations

import os
import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from metarisk import jobs
from metarisk.domain import Job
from metarisk.jobs import Context, Quiet
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.end_to_end.tiny import REPOSITORY

DATA = Path(os.environ.get("METARISK_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "credit_lending_club"
CANDIDATES = ("pooled_logistic", "segment_logistic", "hazard", "hazard_head")
DIFFERENCE = "loss_minus_opponent"
CUT_OFF, NIGHT = date(2011, 1, 2), date(2011, 1, 31)

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the Lending Club loans are not in {DATA}"),
]


def test_a_week_and_a_night(tmp_path: Path) -> None:
    for folder in ("portfolios", "expectations", "sql"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    toml = tmp_path / "portfolios" / "lending_club.toml"
    toml.write_text(f"candidates = {list(CANDIDATES)}\n" + toml.read_text())
    settings = Settings(project=tmp_path, warehouse=SecretStr("duckdb:///warehouse.duckdb"), threads=1, memory_mb=512)
    warehouse = open_warehouse("duckdb:///warehouse.duckdb", settings.data_dir, threads=1, memory_mb=512)
    for name in ("loans", "outcomes"):
        file = pq.ParquetFile(DATA / f"{name}.parquet")
        warehouse.load(name, pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches()))

    week = jobs.weekly(Context(Job("lending_club", CUT_OFF), settings, Quiet()))
    assert week.promoted
    evidence = warehouse.rows(
        "SELECT candidate, metric, value, low, high, rows, events FROM metarisk.evidence_current "
        "WHERE portfolio = 'lending_club' AND slice = 'all' AND protocol = 'walk_forward'"
    )
    values = {(row["candidate"], row["metric"]): row["value"] for row in evidence}
    assert {candidate for candidate, _ in values} == set(CANDIDATES)
    assert all(row["rows"] > 1_000 and row["events"] > 50 for row in evidence)
    for name in CANDIDATES:
        assert 0.55 < values[name, "auc"] < 0.80
    # `hazard` is what hazard_head adapts. With some hundred events it may cost a little, and never much.
    assert values["hazard_head", "log_loss"] < values["hazard", "log_loss"] + 5e-4
    (against,) = (row for row in evidence if (row["candidate"], row["metric"]) == ("hazard_head", DIFFERENCE))
    assert against["low"] < 0 < against["high"] < 0.005

    result = jobs.nightly(Context(Job("lending_club", NIGHT), settings, Quiet()))
    expected = warehouse.rows(
        "SELECT count(*) AS n FROM source.loans l LEFT JOIN source.outcomes o ON o.id = l.id "
        "WHERE l.issue_d <= DATE '2011-01-31' AND l.issue_d + INTERVAL 12 MONTH > DATE '2011-01-31' "
        "AND (o.id IS NULL OR o.known_date > DATE '2011-01-31')"
    )[0]["n"]
    night = warehouse.rows("SELECT * FROM metarisk.night")[0]
    assert result.outcome == "published"
    assert expected - night["rows_quarantined"] <= result.rows_scored <= expected
    assert result.rows_scored > 8_000
    assert (night["segments_adapted"], night["segments_carried"]) != (0, 0)
    assert night["segments_abstained"] > 100
    assert night["segments_fallback"] > 0
    mean = warehouse.rows("SELECT avg(score) AS mean FROM metarisk.score_current")[0]["mean"]
    assert 0.02 < mean < 0.10
    assert result.page is not None
    assert "Lending Club personal loans" in result.page.read_text()
