"""Drafts from whole tables: roles by what values do, on both warehouses, and every draft runs and keeps its suite."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from metarisk import lake, quality
from metarisk.domain import ConfigError, Portfolio, Warehouse
from metarisk.portfolios import Draft, Wanted, draft_portfolio, extract_sql, load_portfolio, suite_path
from metarisk.portfolios.profile import FORMS
from metarisk.risks import RISKS
from tests.warehouses import open_duckdb

ROOT = Path(__file__).resolve().parents[2]
AS_OF, LAST = date(2025, 3, 31), date(2025, 6, 30)
ROWS = 3_000


def loans(rows: int = ROWS, seed: int = 3, **more: Any) -> pl.DataFrame:
    """Loans of four years whose names give nothing away but what hints may; `more` adds or replaces columns."""
    rng = np.random.default_rng(seed)
    opened = np.datetime64("2021-01-01") + rng.integers(0, 1640, rows)
    rate = np.round(rng.uniform(3, 20, rows), 2)
    bad = rng.random(rows) < 1 / (1 + np.exp(2.4 - 0.08 * (rate - 11)))
    event = np.where(bad, opened + rng.integers(20, 364, rows), np.datetime64("NaT"))
    known = np.where(bad, event + rng.integers(5, 28, rows), np.datetime64("NaT"))
    columns = {
        "loan": [f"L{i:06d}" for i in range(rows)],
        "opened_on": opened,
        "region": rng.choice(["R0", "R1", "R2"], rows),
        "branch": [f"B{i}" for i in rng.integers(0, 40, rows)],
        "amount": np.round(np.exp(rng.normal(8, 0.7, rows)), 2),
        "income": np.where(rng.random(rows) < 0.7, np.nan, np.exp(rng.normal(10, 0.5, rows))),
        "rate": rate,
        "d1": event.astype("datetime64[D]"),
        "d2": known.astype("datetime64[D]"),
    }
    frame = pl.DataFrame(columns).with_columns(pl.col("income").fill_nan(None))
    return frame.with_columns(**more) if more else frame


BAD = pl.col("d1").is_not_null()


def drafted(warehouse: Warehouse, frame: pl.DataFrame, wanted: Wanted | None = None) -> Draft:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    warehouse.load("book", table.to_reader())
    return draft_portfolio("book", "source.book", warehouse, wanted)


def toml(draft: Draft) -> dict[str, Any]:
    return tomllib.loads(draft.files["portfolios/book.toml"])


def roles(draft: Draft) -> dict[str, tuple[str, bool]]:
    return {one.column: (one.role, one.check) for one in draft.decisions}


def extracted(warehouse: Warehouse, draft: Draft, folder: Path) -> tuple[Portfolio, lake.Extract]:
    """The draft's extract."""
    for path, text in draft.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    shutil.copy(ROOT / "expectations/scores.json", folder / "expectations")
    portfolio = load_portfolio(folder, "book", RISKS)
    with warehouse.stream(extract_sql(folder, portfolio), {"as_of": AS_OF}) as reader:
        done = lake.extract(
            [reader], portfolio, AS_OF, folder / "lake", "0" * 64, memory_mb=256, threads=1, progress=_silent
        )
    return portfolio, done


def require_its_suite(portfolio: Portfolio, done: lake.Extract, folder: Path) -> None:
    suite = suite_path(folder, portfolio)
    judged = quality.check(suite, done.paths, portfolio=portfolio, as_of=AS_OF, quarantine=folder / "quarantine")
    assert judged.failures == []


def _silent(done: int, total: int, note: str) -> None:
    pass


@pytest.fixture
def duckdb(tmp_path: Path) -> Warehouse:
    return open_duckdb(tmp_path)


def test_a_draft_is_what_a_person_would_have_written(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    draft = drafted(empty_warehouse, loans())
    assert roles(draft) == {
        "loan": ("entity", True),
        "opened_on": ("opened_on", True),
        "region": ("segments", True),
        "branch": ("segments", True),
        "amount": ("feature", False),
        "income": ("feature", False),
        "rate": ("feature", False),
        "d1": ("event_date", True),
        "d2": ("known_date", False),
    }
    written = toml(draft)
    assert written["targets"] == [{"name": "pd_12m", "horizon_months": 12, "reporting_lag_days": 27}]
    mostly = re.search(r'"income",\s*"mostly": ([0-9.]+)', draft.files["expectations/book.json"])
    assert mostly and 0 < float(mostly[1]) < 0.3
    portfolio, done = extracted(empty_warehouse, draft, tmp_path / "project")
    require_its_suite(portfolio, done, tmp_path / "project")
    rows = pl.read_parquet(done.paths)
    known = loans().filter(pl.col("opened_on") <= AS_OF)
    assert rows.height == known.height
    assert rows["d1"].is_not_null().sum() == known.filter(pl.col("d2") <= AS_OF).height
    assert portfolio.features.keys() == {"amount", "income", "rate"}


OUTCOMES: Mapping[str, pl.Expr] = {
    "a copy of the flag": BAD.cast(pl.Int8),
    "a status": pl.when(BAD).then(pl.lit("x")).otherwise(pl.lit("y")),
    "a status of three": pl.when(BAD & (pl.col("amount") > 3000)).then(pl.lit("x")).when(BAD).then(pl.lit("z"))
    .otherwise(pl.lit("y")),
    "an amount of bad loans": pl.when(BAD).then(pl.col("amount") * 0.6).otherwise(0.0),
    "a gap where all is well": pl.when(BAD).then(pl.col("amount")),
    "a date after opening": pl.when(pl.col("amount") > 2000).then(pl.col("opened_on") + timedelta(days=40)),
}  # fmt: skip


@pytest.mark.parametrize("what", OUTCOMES)
def test_what_the_outcome_tells_is_no_feature_without_a_person(duckdb: Warehouse, what: str) -> None:
    draft = drafted(duckdb, loans(q=OUTCOMES[what]))
    assert "q" not in toml(draft)["features"]
    assert "q" not in toml(draft)["columns"].values()
    role, check = roles(draft)["q"]
    assert check, role
    assert re.search('# CHECK: "q" is left out|exit_date = "q"', draft.files["portfolios/book.toml"])
    assert set(toml(draft)["features"]) == {"amount", "income", "rate"}


@pytest.mark.parametrize(
    "copy",
    [
        pl.col("loss_count") * 1.19,
        pl.col("loss_count").cast(pl.String),
        (pl.col("loss_count") + 1).log().round(3),
        pl.when(pl.col("loss_count") > 0).then(pl.col("amount")),
    ],
)
def test_a_copy_of_a_value_is_no_feature_and_an_honest_companion_is(duckdb: Warehouse, copy: pl.Expr) -> None:
    counts = np.random.default_rng(7).poisson(np.exp(0.12 * (loans()["rate"].to_numpy() - 11)))
    book = loans(hours_worked=pl.lit(200.0) + pl.col("rate") * 90, loss_count=pl.Series(counts)).drop("d1", "d2")
    draft = drafted(duckdb, book.with_columns(q=copy))
    assert toml(draft)["columns"]["value"] == "loss_count"
    assert roles(draft)["q"] == ("outcome?", True)
    assert set(toml(draft)["features"]) == {"amount", "income", "rate"}


def test_dates_of_other_ends_among_those_of_the_event_are_told(duckdb: Warehouse) -> None:
    repaid = ~BAD & (pl.col("amount") > 4000)
    end = pl.when(repaid).then(pl.col("opened_on") + timedelta(days=500))
    status = pl.when(BAD).then(pl.lit("lost")).when(repaid).then(pl.lit("repaid"))
    draft = drafted(duckdb, loans(s=status, d1=pl.coalesce("d1", end), d2=pl.coalesce("d2", end)))
    (line,) = [line for line in draft.files["portfolios/book.toml"].splitlines() if line.startswith("event_date")]
    assert "CHECK: of its rows s says 'repaid'" in line or "CHECK: of its rows s says 'lost'" in line
    assert any(one.check and "keep the dates of the event alone" in one.why for one in draft.decisions)


def test_rows_from_all_over_the_table_are_read(duckdb: Warehouse) -> None:
    newest = loans(130_000).sort("opened_on", descending=True)
    early = pl.int_range(pl.len()) < 100_000
    draft = drafted(
        duckdb, newest.with_columns(pl.when(~early).then(pl.col(name)).alias(name) for name in ("d1", "d2"))
    )
    assert {roles(draft)[name][0] for name in ("d1", "d2")} == {"event_date", "known_date"}


WRITTEN = {
    "YYYY-MM-DD": "%Y-%m-%d",
    "YYYYMMDD": "%Y%m%d",
    "DD/MM/YYYY": "%d/%m/%Y",
    "MM/DD/YYYY": "%m/%d/%Y",
    "DD.MM.YYYY": "%d.%m.%Y",
    "DD-Mon-YY": "%d-%b-%y",
}


def test_text_dates_are_cast_and_mean_the_same(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    expected = loans().filter(pl.col("opened_on") <= AS_OF).sort("loan")
    for form, pattern in WRITTEN.items():
        assert form in [one.name for one in FORMS]
        text = [pl.col(name).dt.strftime(pattern) for name in ("opened_on", "d1", "d2")]
        draft = drafted(empty_warehouse, loans().with_columns(text))
        assert f"cast from {form}" in next(one.why for one in draft.decisions if one.column == "d1"), form
        _, done = extracted(empty_warehouse, draft, tmp_path / form.replace("/", "_"))
        rows = pl.read_parquet(done.paths).sort("loan")
        assert rows["opened_on"].equals(expected["opened_on"]), form


def test_a_date_that_nobody_can_read_is_asked_for(duckdb: Warehouse) -> None:
    early = loans().with_columns(pl.col("opened_on").dt.month_start().dt.strftime("%d/%m/2024").alias("seen"))
    draft = drafted(duckdb, early)
    (told,) = [one for one in draft.decisions if one.column == "seen"]
    assert told.check
    assert "DD/MM/YYYY or MM/DD/YYYY" in told.why
    assert "seen" not in toml(draft)["features"]


def test_a_flag_alone_a_book_without_segments_and_what_the_user_says(
    empty_warehouse: Warehouse, tmp_path: Path
) -> None:
    flag = loans().select(pl.exclude("d1", "d2", "region", "branch"), BAD.alias("was_bad"))
    wanted = Wanted(label="was_bad", segments=())
    draft = drafted(empty_warehouse, flag, wanted)
    assert toml(draft)["columns"]["label"] == "was_bad"
    assert toml(draft)["columns"]["segments"] == []
    _, done = extracted(empty_warehouse, draft, tmp_path / "project")
    rows = pl.read_parquet(done.paths)
    due = rows["opened_on"].dt.offset_by("12mo") + timedelta(days=30)
    assert (rows["was_bad"].is_not_null() == (due <= AS_OF)).all()
    assert rows["whole_book"].unique().to_list() == ["(all)"]
    said = drafted(empty_warehouse, loans(), Wanted(event="d2", known="d2", segments=("branch",), risk="fraud"))
    assert toml(said)["risk"] == "fraud"
    assert toml(said)["columns"]["segments"] == ["branch"]
    with pytest.raises(ConfigError, match=r"no column brunch.*did you mean 'branch'"):
        drafted(empty_warehouse, loans(), Wanted(segments=("brunch",)))


def test_the_horizon_and_the_lag_are_those_of_the_events(duckdb: Warehouse) -> None:
    late = loans().with_columns(pl.col("d1", "d2") + timedelta(days=900))
    written = toml(drafted(duckdb, late))["targets"][0]
    assert written["horizon_months"] == 36
    assert written["name"] == "pd_36m"
    at_once = loans().with_columns(
        d1=pl.when(BAD).then(pl.col("opened_on")), d2=pl.when(BAD).then(pl.col("opened_on") + timedelta(days=7))
    )
    written = toml(drafted(duckdb, at_once))
    assert written["risk"] == "fraud"
    assert written["targets"][0] == {"name": "fraud_1d", "horizon_days": 1, "reporting_lag_days": 7}


def lasting(months: Sequence[int], rows: int = ROWS) -> pl.DataFrame:
    """Loans with their contract's end, without dates of events."""
    terms = np.random.default_rng(9).choice(months, rows)
    end = pl.col("opened_on").dt.offset_by(pl.Series(terms).cast(pl.String) + "mo")
    return loans(rows, maturity_date=end).with_columns(was_bad=BAD.cast(pl.Int8)).drop("d1", "d2")


def test_a_flag_of_the_whole_contract_is_a_lifetime_default(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    draft = drafted(empty_warehouse, lasting((9, 15, 30)))
    written = toml(draft)
    assert roles(draft)["maturity_date"] == ("matures_on", True)
    assert written["columns"]["matures_on"] == "maturity_date"
    assert written["targets"] == [{"name": "pd_lifetime", "horizon_months": 30, "reporting_lag_days": 30}]
    assert "pd_12m" not in draft.files["portfolios/book.toml"]
    _, done = extracted(empty_warehouse, draft, tmp_path / "project")
    rows = pl.read_parquet(done.paths)
    due = pl.min_horizontal(pl.col("opened_on").dt.offset_by("30mo"), "maturity_date") + timedelta(days=30)
    assert rows.select((pl.col("was_bad").is_not_null() == (due <= AS_OF)).all()).item()


def test_the_contracts_end_is_the_horizon_where_a_year_holds_too_few_events_or_a_person_says_so(
    duckdb: Warehouse,
) -> None:
    end = pl.col("opened_on").dt.offset_by("60mo")
    early = loans(maturity_date=end)
    late = early.with_columns(pl.col("d1", "d2") + timedelta(days=900))

    def name(frame: pl.DataFrame, **said: str) -> str:
        return str(toml(drafted(duckdb, frame, Wanted(**said)))["targets"][0]["name"])

    assert name(late) == "pd_lifetime"
    assert name(early) == "pd_12m"
    assert name(early, horizon="lifetime") == "pd_lifetime"
    assert name(late, horizon="36m") == "pd_36m"
    assert name(late, horizon="90d") == "pd_90d"
    other = early.rename({"maturity_date": "ablauf"})
    assert name(other, matures="ablauf") == "pd_lifetime"
    with pytest.raises(ConfigError, match="--matures"):
        name(other, horizon="lifetime")
    with pytest.raises(ConfigError, match="'1y' is no horizon"):
        name(early, horizon="1y")


@pytest.mark.parametrize(
    ("settled", "expected"),
    [
        ({"months": 12, "days": 30}, {"name": "pd_12m", "horizon_months": 12}),
        ({"months": 24, "days": 0}, {"name": "pd_24m", "horizon_months": 24}),
        ({"months": 0, "days": 25}, {"name": "pd_25d", "horizon_days": 25}),
    ],
)
def test_the_horizon_of_a_flag_is_the_age_from_which_rows_have_it(
    duckdb: Warehouse, settled: dict[str, int], expected: dict[str, Any]
) -> None:
    due = pl.col("opened_on").dt.offset_by(f"{settled['months']}mo{settled['days']}d")
    flag = loans(12_000, was_bad=pl.when(due <= pl.col("opened_on").max()).then(BAD)).drop("d1", "d2")
    written = toml(drafted(duckdb, flag, Wanted(label="was_bad", risk="credit")))["targets"][0]
    assert written.items() >= expected.items()
    days = written["reporting_lag_days"]
    assert abs(days - (settled["days"] if settled["months"] else 0)) <= 5


def test_a_risk_of_numbers_refuses_a_flag_and_one_of_events_a_number(duckdb: Warehouse) -> None:
    flag = loans(was_bad=BAD.cast(pl.Int8)).drop("d1", "d2")
    for risk in ("operational", "market"):
        with pytest.raises(ConfigError, match=f"risk {risk} predicts a number, and the label was_bad"):
            drafted(duckdb, flag, Wanted(label="was_bad", risk=risk))
    with pytest.raises(ConfigError, match="risk credit predicts an event, and the label amount is a number"):
        drafted(duckdb, flag, Wanted(label="amount", risk="credit"))


def test_a_text_of_amounts_is_for_a_person(duckdb: Warehouse) -> None:
    comma = pl.col("amount").cast(pl.String).str.replace(r"\.", ",")
    draft = drafted(duckdb, loans(q=comma, note=pl.concat_str(pl.col("loan"), pl.col("branch"))))
    assert roles(draft)["q"] == ("not used", True)
    assert roles(draft)["note"][1] is False


def test_nested_columns_are_named_and_left_out(duckdb: Warehouse) -> None:
    draft = drafted(duckdb, loans(q=pl.concat_list("amount", "rate"), s=pl.struct("amount", "rate")))
    assert roles(draft)["q"] == ("not used", True)
    assert roles(draft)["s"] == ("not used", True)


@pytest.mark.xdist_group("postgresql")
def test_names_that_case_alone_tells_apart_are_refused(postgresql: Any, tmp_path: Path) -> None:
    from tests.warehouses import open_postgresql

    warehouse = open_postgresql(postgresql.url(postgresql.create_database()), tmp_path)
    with pytest.raises(ConfigError, match="columns income and Income, which case alone tells apart"):
        drafted(warehouse, loans(10, Income=pl.col("income")))


def bars(columns: tuple[str, ...]) -> pl.DataFrame:
    """Bars of six assets over two years, with one high below its low."""
    rng = np.random.default_rng(5)
    days = pl.date_range(date(2023, 7, 3), LAST, eager=True)
    days = days.filter(days.dt.weekday() < 6)
    frames = []
    for number in range(6):
        step = rng.normal(0, 0.01 * (number + 1), len(days))
        close = 50 * np.exp(step.cumsum())
        width = np.exp(np.abs(rng.normal(0, 0.01, len(days))))
        frame = pl.DataFrame(
            {"ticker": f"A{number}", "date": days, "close": close, "open": close / np.exp(step / 2), "ret": step}
        )
        top = pl.max_horizontal("open", "close") * width
        frames.append(frame.with_columns(high=top, low=pl.min_horizontal("open", "close") / width, volume=rng.integers(
            10_000, 90_000, len(days)), sector=None if number == 0 else pl.lit(f"S{number % 2}")))  # fmt: skip
    return pl.concat(frames, how="vertical_relaxed").select("ticker", "date", *columns)


BAR_COLUMNS = ("open", "high", "low", "close", "volume", "sector")


@pytest.mark.parametrize(
    ("risk", "columns"),
    [("market", BAR_COLUMNS), ("market", ("ret",)), ("liquidity", BAR_COLUMNS), ("quant", ("close",))],
)
def test_bars_become_a_portfolio_of_each_market_risk(
    empty_warehouse: Warehouse, tmp_path: Path, risk: str, columns: tuple[str, ...]
) -> None:
    frame = bars(columns)
    draft = drafted(empty_warehouse, frame, Wanted(risk=risk))
    assert toml(draft)["calendar"] == "business"
    portfolio, done = extracted(empty_warehouse, draft, tmp_path / "project")
    require_its_suite(portfolio, done, tmp_path / "project")
    if risk == "market":
        require_its_suite(portfolio, done, tmp_path / "project")
    rows = pl.read_parquet(done.paths)
    known = frame.filter(pl.col("date") <= AS_OF)
    if risk != "quant":
        assert rows.height == known.height  # an asset without a sector stays
    value, seen = str(portfolio.columns.value), str(portfolio.columns.known_date)
    told = rows.drop_nulls(value)
    assert told.height > 0.15 * rows.height
    assert (told[seen] <= AS_OF).all()
    assert (told[seen] > told["day"]).all()
    if columns == ("ret",):
        one = frame.filter(pl.col("ticker") == "A1").sort("date")
        mine = rows.filter(pl.col("asset") == "A1").sort("day")
        assert mine["return_1d"].to_numpy() == pytest.approx(one["ret"].head(mine.height).to_numpy())
        following = one["ret"].shift(-1).head(mine.height - 1).to_numpy() ** 2
        assert mine[value].drop_nulls().to_numpy() == pytest.approx(np.maximum(following, 1e-6))


def test_a_table_without_bars_is_no_market(duckdb: Warehouse) -> None:
    with pytest.raises(ConfigError, match="has no bars"):
        drafted(duckdb, loans(), Wanted(risk="market"))
    with pytest.raises(ConfigError, match="liquidity takes both"):
        drafted(duckdb, bars(("ret",)), Wanted(risk="liquidity"))
