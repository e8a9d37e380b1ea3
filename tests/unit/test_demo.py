"""The demo's loan book: the same anywhere, in a stream, and with the truth it documents."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy.stats import rankdata

from metarisk import lake, quality
from metarisk.domain import DEMO_AS_OF
from metarisk.portfolios import extract_sql, load_portfolio, suite_path
from metarisk.risks.credit.book import _CHUNK, DEMO_LOANS, _draw, _log_odds, _world, generate
from tests.warehouses import ROOT, open_duckdb

HORIZON = pl.col("opened_on").dt.offset_by("12mo")


def book(scale: float = 1.0, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    tables = generate(scale, seed)
    return pl.DataFrame(tables["demo_loans"].read_all()), pl.DataFrame(tables["demo_outcomes"].read_all())


@pytest.fixture(scope="module")
def loans() -> pl.DataFrame:
    """Loans at scale 1 with their ends."""
    accounts, ends = book()
    return accounts.join(ends, on="loan_id", how="left", maintain_order="left")


def test_the_same_seed_gives_the_same_book_and_another_does_not() -> None:
    first, again, other = book(0.02), book(0.02), book(0.02, seed=1)
    assert first[0].equals(again[0])
    assert first[1].equals(again[1])
    assert not first[0].equals(other[0])


def test_a_smaller_book_is_the_beginning_of_a_larger_one() -> None:
    small, large = book(0.01), book(1.5)  # 54,000 loans are more than one chunk
    assert large[0].height == 54_000
    assert large[0].head(360).equals(small[0])
    assert large[1].filter(pl.col("loan_id") < "L00000360").equals(small[1])
    assert large[0]["loan_id"].is_unique().all()
    assert large[0][0, "income"] != large[0][_CHUNK, "income"]


def test_a_scale_without_loans_is_refused() -> None:
    with pytest.raises(ValueError, match="gives no loan"):
        generate(0.0)


def test_the_book_is_as_documented(loans: pl.DataFrame) -> None:
    assert loans.height == DEMO_LOANS
    sizes = loans.group_by("region", "product").len()["len"].sort()
    assert len(sizes) == 60
    assert sizes[0] < 60
    assert sizes[-1] > 7_000
    assert loans["opened_on"].min() == date(2022, 1, 1)
    assert loans["opened_on"].max() == date(2025, 12, 31)
    mature = loans.filter(pl.col("opened_on") < date(2024, 6, 30))
    bad = (pl.col("outcome") == "defaulted") & (pl.col("event_date") <= HORIZON)
    rates = mature.group_by(pl.col("opened_on").dt.year()).agg(bad.fill_null(False).mean().alias("rate"))["rate"]
    assert 0.02 < rates.min() < rates.max() < 0.05  # type: ignore[operator]
    assert rates.max() > 1.2 * rates.min()  # type: ignore[operator]


def test_labels_are_late_and_ends_compete(loans: pl.DataFrame) -> None:
    delay = (pl.col("known_date") - pl.col("event_date")).dt.total_days()
    late = loans.filter(pl.col("outcome") == "defaulted").select(delay)["known_date"]
    assert (late.min(), late.max()) == (10, 55)
    early = loans.filter(pl.col("outcome") == "repaid").select(delay)["known_date"]
    assert (early.min(), early.max()) == (1, 5)
    ages = loans.select((pl.col("event_date") - pl.col("opened_on")).dt.total_days(), "outcome")
    assert ages.filter(pl.col("outcome") == "defaulted")["event_date"].min() >= 90  # type: ignore[operator]
    assert loans["known_date"].max() <= date(2025, 12, 31)  # type: ignore[operator]
    # Nights after the demo's own find new loans and new labels.
    assert loans.filter(pl.col("known_date") > DEMO_AS_OF).height > 1_000


def test_dirt_stands_at_fixed_rows(loans: pl.DataFrame) -> None:
    number = pl.col("loan_id").str.slice(1).cast(pl.Int64)
    dirt = {
        "income": (pl.col("income") < 0, number % 2503 == 1201),
        "bureau": (pl.col("bureau_score") > 850, number % 3001 == 77),
        "first credit": (pl.col("first_credit_on") > pl.col("opened_on"), number % 4001 == 501),
        "NaN": (pl.col("utilisation").is_nan().fill_null(False), number % 5003 == 11),
    }
    for name, (dirty, expected) in dirt.items():
        assert loans.filter(dirty)["loan_id"].equals(loans.filter(expected)["loan_id"]), name
        assert loans.filter(dirty).height >= 7, name


def test_defaults_follow_the_truth(loans: pl.DataFrame) -> None:
    """Without prepayment a default would have the stated probability; with it, a little less often."""
    world = _world(0)
    odds = _log_odds(world, _draw(world, 0))[:DEMO_LOANS]
    bad = ((pl.col("outcome") == "defaulted") & (pl.col("event_date") <= HORIZON)).fill_null(False)
    mature = loans.select(bad.alias("bad"), (pl.col("opened_on") < date(2024, 6, 30)).alias("mature"))
    y, p = mature["bad"].to_numpy(), 1 / (1 + np.exp(-odds))
    chosen = mature["mature"].to_numpy()
    y, p = y[chosen], p[chosen]
    assert 0.75 * p.mean() < y.mean() < p.mean()
    ranks = rankdata(p)
    auc = (ranks[y].sum() - y.sum() * (y.sum() + 1) / 2) / (y.sum() * (~y).sum())
    assert 0.75 < auc < 0.90
    thirds = np.digitize(p, np.quantile(p, [1 / 3, 2 / 3]))
    for third in range(3):
        seen, stated = y[thirds == third].mean(), p[thirds == third].mean()
        assert abs(seen - 0.87 * stated) < 4 * np.sqrt(stated / (thirds == third).sum()), third


def test_a_large_book_comes_in_batches() -> None:
    reader = generate(5.0)["demo_loans"]
    sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 5 * DEMO_LOANS
    assert max(sizes) <= _CHUNK
    assert reader.schema.field("first_credit_on").type == pa.date32()


@pytest.mark.xdist_group("great_expectations")
def test_the_suite_of_the_demo_sets_its_dirt_aside(tmp_path: Path) -> None:
    warehouse = open_duckdb(tmp_path)
    for name, reader in generate(0.2).items():
        warehouse.load(name, reader)
    portfolio = load_portfolio(ROOT, "consumer_loans")
    with warehouse.stream(extract_sql(ROOT, portfolio), {"as_of": DEMO_AS_OF}) as rows:
        done = lake.extract(
            [rows], portfolio, DEMO_AS_OF, tmp_path, "q", memory_mb=256, threads=1, progress=lambda *_: None
        )
    found = quality.check(
        suite_path(ROOT, portfolio), done.paths, portfolio=portfolio, as_of=DEMO_AS_OF, quarantine=tmp_path / "aside"
    )
    found.require()
    assert found.excluded is not None
    accounts = book(0.2)[0].filter(pl.col("opened_on") <= DEMO_AS_OF)
    dirty = accounts.filter(
        (pl.col("income") < 0) | (pl.col("bureau_score") > 850) | (pl.col("first_credit_on") > pl.col("opened_on"))
    )
    assert pl.read_parquet(found.excluded)["loan_id"].sort().equals(dirty["loan_id"])
    assert len(dirty) > 3
    assert done.not_finite == {"utilisation": accounts["utilisation"].is_nan().sum()}
    assert {failed.severity for failed in found.failures} == {"warning"}
