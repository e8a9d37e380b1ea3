"""A week and nights of signals on generated prices: trials, weights within limits, the page, and a replay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import SecretStr

from metarisk import jobs
from metarisk.answers.replay import reproduce
from metarisk.domain import Job, Warehouse
from metarisk.jobs import Context, NightResult, Quiet
from metarisk.markets import prices
from metarisk.risks.quant.derived import EQUAL
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.warehouses import ROOT, schema

FRIDAY, NIGHTS = date(2025, 6, 27), (date(2025, 6, 30), date(2025, 7, 1))
CANDIDATES = ("pooled_logistic", "pooled_lightgbm", "decayed")
TURNOVER = 0.3


@dataclass(frozen=True)
class Done:
    """A warehouse after a week of few candidates and two nights."""

    settings: Settings
    warehouse: Warehouse
    nights: tuple[NightResult, ...]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    project: Path = tmp_path_factory.mktemp("quant")
    for folder in ("sql", "expectations"):
        shutil.copytree(ROOT / folder, project / folder)
    toml = (ROOT / "portfolios" / "signals_5d.toml").read_text("utf-8")
    toml = toml.replace("folds = 2", "folds = 1\nheld_out = false").replace("turnover = 4.0", f"turnover = {TURNOVER}")
    toml = toml.replace('risk = "quant"', f'risk = "quant"\ncandidates = {list(CANDIDATES)}'.replace("'", '"'))
    (project / "portfolios").mkdir()
    (project / "portfolios" / "signals_5d.toml").write_text(toml)
    settings = Settings(project=project, data=project / "var", warehouse=SecretStr("duckdb:///w.duckdb"), threads=1)
    warehouse = open_warehouse("duckdb:///w.duckdb", settings.data_dir, threads=1, memory_mb=512)
    warehouse.migrate(*schema(project / "sql"))
    for name, reader in prices.generate(0.2).items():
        warehouse.load(f"source.{name}", reader)
    jobs.weekly(Context(Job("signals_5d", FRIDAY), settings, Quiet()))
    nights = tuple(jobs.nightly(Context(Job("signals_5d", night), settings, Quiet())) for night in NIGHTS)
    yield Done(settings, warehouse, nights)


def test_every_configuration_that_was_judged_is_a_trial(done: Done) -> None:
    """All candidates and equal weights, on the same number of periods; the night deflates by the candidates."""
    found = pl.DataFrame(done.warehouse.rows("SELECT * FROM metarisk.trial"), infer_schema_length=None)
    assert set(found["recipe"]) == {*CANDIDATES, EQUAL}
    assert found.filter(pl.col("metric").str.ends_with("_periods"))["value"].n_unique() == 1
    told = done.warehouse.rows("SELECT value FROM metarisk.measure_current WHERE metric = 'trials'")
    assert {row["value"] for row in told} == {len(CANDIDATES)}


def test_assets_have_rank_and_weight_within_limits(done: Done) -> None:
    """Ranks follow signals, the best are long and the worst short, none above the limit, and the second night trades
    no more than it may; an asset listed days ago and those with a bad bar in the past are among them."""
    rows = pl.DataFrame(done.warehouse.rows("SELECT * FROM metarisk.signal_current"), infer_schema_length=None)
    rows = rows.sort("signal_rank")
    assert rows["signal_rank"].to_list() == list(range(1, rows.height + 1))
    assert rows["signal_5d"].is_sorted(descending=True)
    assert rows["reasons"].null_count() == 0
    assert {"H000", "H003", "H006"} <= set(rows["entity"])
    assert not {"H007", "H004"} & set(rows["entity"])
    history = pl.DataFrame(
        done.warehouse.rows("SELECT as_of, entity, score FROM metarisk.score_history WHERE target = 'weight'")
    ).pivot("as_of", index="entity", values="score")
    first, second = (history[str(night)].fill_null(0.0).to_numpy() for night in NIGHTS)
    assert np.abs(first).max() <= 0.1 + 1e-12
    assert first.max() > 0 > first.min()
    assert np.abs(second - first).sum() <= TURNOVER + 1e-9


def test_the_page_shows_the_curve_and_the_night_is_the_same_again(done: Done) -> None:
    page = done.nights[-1].page
    assert page is not None
    text = page.read_text("utf-8")
    for words in ("Long-short portfolio, net of costs", "deflated sharpe", "1/N", "value of 1, net"):
        assert words in text
    for night, result in zip(NIGHTS, done.nights, strict=True):
        again = reproduce(Context(Job("signals_5d", night), done.settings, Quiet()), result.run_id)
        assert again.identical, again.differences


def test_bad_bars_are_told_with_a_remedy(done: Done) -> None:
    broken = done.warehouse.rows(
        "SELECT rule FROM metarisk.quality_result WHERE as_of = $day AND severity = 'warning' AND NOT success",
        {"day": NIGHTS[0]},
    )
    rules = " ".join(row["rule"] for row in broken)
    for words in ("prices are above zero", "one bar a day", "five days without any move", "ratio of a split"):
        assert words in rules
