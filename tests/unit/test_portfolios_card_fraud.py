"""The portfolio `card_fraud`: behaviour as it was known, told again by brute force on both databases."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from metarisk import lake, quality
from metarisk.domain import DataError, Warehouse
from metarisk.portfolios import extract_sql, load_portfolio, suite_path
from metarisk.risks import RISKS
from tests.warehouses import ROOT, insert

PORTFOLIO = load_portfolio(ROOT, "card_fraud", risks=RISKS)
START, AS_OF = date(2025, 1, 1), date(2025, 2, 25)


def transactions(rows: int = 500, seed: int = 3) -> pl.DataFrame:
    """Transactions of sixty days at few cards and terminals, with the day on which a fraud is confirmed: 0 to 9 later.

    A tenth of the frauds is confirmed by a reviewer alone, and a tenth of the others was cleared by one; of those that
    were cleared some are claimed later after all.
    """
    rng = np.random.default_rng(seed)
    first = datetime(2025, 1, 1)  # noqa: DTZ001 the local time of the terminal
    made = [first + timedelta(minutes=int(m)) for m in rng.integers(0, 60 * 1440, rows)]
    fraud = rng.random(rows) < 0.2
    verdict = np.where(rng.random(rows) < 0.1, np.where(fraud, "confirmed", "cleared"), "")
    claimed = (fraud & (verdict == "")) | ((verdict == "cleared") & (rng.random(rows) < 0.3))
    day = np.array([moment.date() for moment in made])
    after, decided = rng.integers(0, 10, rows), rng.integers(0, 6, rows)
    return pl.DataFrame(
        {
            "transaction_id": rng.permutation(rows).astype(np.int64),
            "made_at": made,
            "card_id": rng.integers(0, 12, rows),
            "terminal_id": rng.integers(0, 9, rows),
            "card_group": [f"c{n}" for n in rng.integers(0, 3, rows)],
            "terminal_group": [f"t{n}" for n in rng.integers(0, 3, rows)],
            "amount": np.round(rng.lognormal(3, 1, rows), 2),
            "currency": ["EUR"] * rows,
            "claimed_on": np.where(claimed, day + after.astype("timedelta64[D]").astype(object), None).tolist(),
            "verdict": verdict,
            "decided_on": (day + decided.astype("timedelta64[D]").astype(object)).tolist(),
        },
        schema_overrides={"claimed_on": pl.Date, "decided_on": pl.Date},
    )


def load(warehouse: Warehouse, rows: pl.DataFrame) -> None:
    frauds = rows.filter(pl.col("claimed_on").is_not_null()).select("transaction_id", confirmed_on="claimed_on")
    tables = {"card_transactions": rows.drop("claimed_on", "verdict", "decided_on"), "card_frauds": frauds}
    for name, frame in tables.items():
        warehouse.load(name, frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
    said = rows.filter(pl.col("verdict") != "").sort("transaction_id")
    with warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM metarisk.feedback")
        for seq, row in enumerate(said.iter_rows(named=True), start=1):
            insert(
                transaction, "metarisk.feedback", portfolio="card_fraud", seq=seq, entity=str(row["transaction_id"]),
                verdict=row["verdict"], decided_on=row["decided_on"], author="a",
                recorded_at=datetime(2025, 3, 1, tzinfo=UTC),
            )  # fmt: skip


def extracted(warehouse: Warehouse, folder: Path, as_of: date = AS_OF) -> tuple[lake.Extract, pl.DataFrame]:
    with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": as_of}) as rows:
        done = lake.extract([rows], PORTFOLIO, as_of, folder, "q", memory_mb=256, threads=1, progress=lambda *_: None)
    return done, pl.read_parquet(done.paths)


def confirmed_on(row: dict[str, object], as_of: date) -> date | None:
    """The day on which a transaction became known as fraud, by what was known at as_of."""
    claimed = row["claimed_on"] if row["claimed_on"] and row["claimed_on"] <= as_of else None  # type: ignore[operator]
    decided = row["decided_on"] if row["verdict"] and row["decided_on"] <= as_of else None  # type: ignore[operator]
    if decided and row["verdict"] == "confirmed":
        return min(decided, claimed) if claimed else decided  # type: ignore[type-var, return-value]
    if decided and claimed and claimed <= decided:
        return None
    return claimed  # type: ignore[return-value]


def by_hand(rows: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """Every feature of every transaction, one after the other from the definition."""
    book = [row | {"day": row["made_at"].date()} for row in rows.to_dicts() if row["made_at"].date() <= as_of]
    book = [row | {"confirmed": confirmed_on(row, as_of)} for row in book]
    found = []
    for row in book:
        line = {"transaction_id": str(row["transaction_id"]), "confirmed_on": row["confirmed"]}
        for who in ("card", "terminal"):
            same = [other for other in book if other[f"{who}_id"] == row[f"{who}_id"]]
            for days in (1, 7, 30):
                first = row["day"] - timedelta(days=days - 1)
                made = [other["amount"] for other in same if first <= other["day"] <= row["day"]]
                frauds = [
                    other
                    for other in same
                    if other is not row and other["confirmed"] and first <= other["confirmed"] <= row["day"]
                ]
                line |= {
                    f"{who}_count_{days}": float(len(made)),
                    f"{who}_sum_{days}": round(sum(made), 2),
                    f"{who}_fraud_rate_{days}": len(frauds) / len(made),
                }
            line[f"amount_to_{who}_mean"] = row["amount"] / (line[f"{who}_sum_30"] / line[f"{who}_count_30"])
        found.append(line)
    return pl.DataFrame(found, infer_schema_length=None).sort("transaction_id")


def test_behaviour_is_what_brute_force_finds(warehouse: Warehouse, tmp_path: Path) -> None:
    rows = transactions()
    load(warehouse, rows)
    _, found = extracted(warehouse, tmp_path)
    expected = by_hand(rows, AS_OF)
    assert found["confirmed_on"].count() > 50
    assert found["settled_on"].count() > 30
    for name in expected.columns:
        if expected[name].dtype == pl.Float64:
            assert np.allclose(found[name], expected[name], rtol=1e-12, atol=1e-12), name
        else:
            assert found[name].equals(expected[name], check_names=False), name
    # Only half of the columns are of one kind: each rate must have been above zero somewhere.
    rates = [name for name in expected.columns if "fraud_rate" in name]
    assert all(found[name].max() > 0 for name in rates)  # type: ignore[operator]


def test_what_is_known_later_changes_nothing(embedded: Warehouse, tmp_path: Path) -> None:
    rows = transactions()
    load(embedded, rows)
    before = extracted(embedded, tmp_path / "before")[0].extract_hash
    late = pl.lit(AS_OF + timedelta(days=1))
    changed = rows.with_columns(
        claimed_on=pl.when(pl.col("claimed_on") > AS_OF).then(None).otherwise("claimed_on"),
        decided_on=pl.when(pl.col("decided_on") > AS_OF).then(late).otherwise("decided_on"),
        amount=pl.when(pl.col("made_at").dt.date() > AS_OF).then(1e6).otherwise("amount"),
    )
    changed = changed.with_columns(
        # A claim of what nobody had claimed, a day too late.
        claimed_on=pl.when(pl.col("claimed_on").is_null()).then(late).otherwise("claimed_on")
    ).sample(fraction=1.0, shuffle=True, seed=1)
    load(embedded, changed)
    assert extracted(embedded, tmp_path / "after")[0].extract_hash == before


@pytest.mark.xdist_group("great_expectations")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.col("claimed_on") - pl.duration(days=30), "before it is made"),
        (None, "in one currency"),
    ],
    ids=["confirmed before it was made", "mixed currencies"],
)
def test_wrong_rows_stop_the_night(change: pl.Expr | None, words: str, embedded: Warehouse, tmp_path: Path) -> None:
    place = pl.int_range(pl.len())
    rows = transactions()
    if change is None:
        rows = rows.with_columns(currency=pl.when(place == 7).then(pl.lit("USD")).otherwise("currency"))
    else:
        rows = rows.with_columns(claimed_on=change)
    load(embedded, rows)
    done, _ = extracted(embedded, tmp_path)
    found = quality.check(
        suite_path(ROOT, PORTFOLIO), done.paths, portfolio=PORTFOLIO, as_of=AS_OF, quarantine=tmp_path / "aside"
    )
    assert any(
        words in f"{failed.rule} {failed.detail} {failed.remedy}"
        for failed in found.failures
        if failed.severity == "critical"
    )


def test_an_event_that_comes_twice_is_refused(embedded: Warehouse, tmp_path: Path) -> None:
    rows = transactions()
    load(embedded, rows)
    claimed = rows.filter(pl.col("claimed_on") <= AS_OF).select("transaction_id", confirmed_on="claimed_on")
    twice = pl.concat([claimed, claimed.head(1)])
    embedded.load("card_frauds", twice.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
    with pytest.raises(DataError, match=f"more than once for {claimed['transaction_id'][0]}"):
        extracted(embedded, tmp_path)
