"""A pattern of fraud that no model has seen: who finds it after 1, 5, 20 and 50 confirmed cases?

Simulated card transactions (`fraud_card_simulated`): compromised terminals are known from the start, stolen cards
appear on 1 August 2018 and not before. Models are trained on two months of transactions of some cards without any
stolen one. Then k cases of the new pattern, confirmed in the first half of August, join the support as its newest
events (boosting, which has no support, is fitted again), and a fortnight of other transactions is scored. Precision is
that of the riskiest transactions of each day with the known pattern left aside; recall of the known pattern leaves the
new one aside.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from metarisk import training
from metarisk.adapt import FittedModel, adapt
from metarisk.domain import Array, Portfolio
from metarisk.metrics import pr_auc
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks.fraud import SPEC
from metarisk.risks.fraud.detection import NOTHING, at_budget
from metarisk.tasks import LABEL
from metarisk.warehouse import open_warehouse
from tests.benchmarks import harness
from tests.benchmarks.harness import ROOT, Figure, dotted
from tests.warehouses import schema

TRANSACTIONS = "fraud_card_simulated/transactions.parquet"
RELEASED = date(2018, 8, 1)
TAUGHT = (date(2018, 6, 1), date(2018, 7, 22))
CONFIRMED = (date(2018, 8, 1), date(2018, 8, 14))
JUDGED = (date(2018, 8, 16), date(2018, 8, 29))
NEW = 3
KEEPERS = ("isolation_forest", "map_head", "map_network", "maml", "matching", "siamese")
PORTFOLIO = load_portfolio(ROOT, "card_fraud")
SEGMENTS = replace(
    PORTFOLIO,
    columns=replace(PORTFOLIO.columns, segments=("card_group",)),
    thresholds=replace(PORTFOLIO.thresholds, share_events=50),
)
"""Ten segments, each told the fifty newest events of all."""


def tables(file: Path, hidden: int | None = None, cards: int = 1) -> Mapping[str, pl.DataFrame]:
    """The simulated transactions in the layout of the demo's tables; a confirmation comes 1 to 7 days later.

    Args:
        hidden: a scenario whose transactions are left out before RELEASED.
        cards: one of so many cards is kept.
    """
    day = pl.col("TX_DATETIME").dt.date()
    begin = TAUGHT[0] - timedelta(days=40)
    frame = pl.scan_parquet(file).filter(day >= pl.lit(begin), pl.col("CUSTOMER_ID") % cards == 0)
    if hidden is not None:
        frame = frame.filter((pl.col("TX_FRAUD_SCENARIO") != hidden) | (day >= pl.lit(RELEASED)))
    transaction = pl.col("TRANSACTION_ID").alias("transaction_id")
    delay = pl.duration(days=1 + pl.col("TRANSACTION_ID") % 7)
    made = frame.select(
        transaction,
        made_at="TX_DATETIME",
        card_id=pl.col("CUSTOMER_ID").cast(pl.Int64),
        terminal_id=pl.col("TERMINAL_ID").cast(pl.Int64),
        card_group=pl.col("CUSTOMER_ID").floordiv(500).cast(pl.String),
        terminal_group=pl.col("TERMINAL_ID").floordiv(50).cast(pl.String),
        amount="TX_AMOUNT",
        currency=pl.lit("EUR"),
    )
    frauds = frame.filter(pl.col("TX_FRAUD") == 1).select(transaction, confirmed_on=(day + delay).cast(pl.Date))
    return {"card_transactions": made.collect(), "card_frauds": frauds.collect()}


def behaviour(file: Path, hidden: int | None, as_of: date, cards: int = 1) -> pl.DataFrame:
    """The extract of `card_fraud` on these tables, and each row's scenario."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = open_warehouse("duckdb:///warehouse.duckdb", Path(folder), threads=2, memory_mb=2_048)
        warehouse.migrate(*schema())
        for name, frame in tables(file, hidden, cards).items():
            warehouse.load(name, frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
        with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": as_of}) as reader:
            rows = pl.DataFrame(reader.read_all())
    scenario = pl.read_parquet(file, columns=["TRANSACTION_ID", "TX_FRAUD_SCENARIO"])
    joined = rows.join(scenario, left_on="transaction_id", right_on="TRANSACTION_ID", how="left")
    fraud = pl.col("TX_FRAUD_SCENARIO") > 0
    return joined.with_columns(fraud.cast(pl.Float64).alias(LABEL), pl.col("transaction_id").cast(pl.String))


@dataclass(frozen=True)
class Rows:
    """What teaches, the cases of the new pattern that may be confirmed, and what is judged."""

    teach: pl.DataFrame
    cases: pl.DataFrame
    judged: pl.DataFrame


def split(frame: pl.DataFrame, every: int) -> Rows:
    """Cut an extract in time; of all cards each `every`-th is kept, of the new pattern's cases all."""
    some = pl.col("card_id") % every == 0
    new = pl.col("TX_FRAUD_SCENARIO") == NEW

    def within(span: tuple[date, date]) -> pl.Expr:
        return pl.col("made_on").is_between(*span)

    taught = frame.filter(within(TAUGHT), some, ~new).sort("transaction_id", "made_on")
    return Rows(taught, frame.filter(within(CONFIRMED), new, ~some), frame.filter(within(JUDGED), some))


@dataclass(frozen=True)
class Found:
    """What one way finds, over all judged days: of the new pattern, and of the old one."""

    precision: float
    recall: float
    pr_auc: float
    old_recall: float


def judge(rows: pl.DataFrame, score: Array, budget: int) -> Found:
    """Rates among the riskiest `budget` transactions a day, given scores (N,) of the judged rows."""
    scored = rows.with_columns(score=score, new=pl.col("TX_FRAUD_SCENARIO") == NEW)
    without_old = scored.filter(pl.col("new") | (pl.col(LABEL) == 0))
    without_new = scored.filter(~pl.col("new"))
    new, old = (
        sum(
            (at_budget(*(day[name] for name in ("transaction_id", "score", LABEL, "amount")), budget) for day in days),
            NOTHING,
        )
        for days in (part.partition_by("made_on") for part in (without_old, without_new))
    )
    return Found(new.precision, new.recall, pr_auc(without_old["score"], without_old[LABEL]), old.recall)


def adapted(model: FittedModel, rows: Rows, cases: pl.DataFrame, support: int, portfolio: Portfolio) -> Array:
    """Scores (N,) of the judged rows after adapting to the newest taught rows of each segment and the cases."""
    newest = rows.teach.sort("made_on", descending=True).group_by("card_group", maintain_order=True).head(support)
    known = pl.concat([newest.select(rows.teach.columns), cases])
    return adapt(model, "", known, portfolio, SPEC).score(rows.judged, portfolio)[0]


def compare(rows: Rows, names: Sequence[str], ks: Sequence[int], draws: int, budget: int, support: int) -> pl.DataFrame:
    """One line a way, k and draw."""
    lines, rng = [], np.random.default_rng(0)
    bases = training.fit_bases([*names, "pooled_lightgbm"], rows.teach, SEGMENTS, SPEC)
    models = {
        name: training.fit(name, rows.teach, bases, SEGMENTS, SPEC, seed=0, progress=lambda *_: None) for name in names
    }

    def note(way: str, k: int, draw: int, score: Array) -> None:
        found = judge(rows.judged, score, budget)
        lines.append({"way": way, "k": k, "draw": draw, **vars(found)})
        print(f"{time.process_time():6.0f} s  {way} k={k} draw {draw}: {found}", flush=True)

    note("pooled", 0, 0, bases["lightgbm"].full.predict(rows.judged))
    for name, model in models.items():
        note(name, 0, 0, adapted(model, rows, rows.cases.head(0), support, SEGMENTS))
    for k in ks:
        for draw in range(draws):
            cases = rows.cases[rng.choice(rows.cases.height, k, replace=False)]
            more = pl.concat([rows.teach, cases.select(rows.teach.columns)])
            again = training.fit_bases(["pooled_lightgbm"], more, SEGMENTS, SPEC)["lightgbm"]
            note("boosting", k, draw, again.full.predict(rows.judged))
            for name, model in models.items():
                if name != "isolation_forest":  # it has nothing that adapts
                    note(name, k, draw, adapted(model, rows, cases.select(rows.teach.columns), support, SEGMENTS))
    return pl.DataFrame(lines)


def benchmark(quick: bool, every: int = 5, draws: int = 3, rows: Path | None = None) -> Sequence[Figure]:
    """Means over draws of what each way finds after k cases, beside what the pooled model finds without any."""
    if rows is None or not rows.exists():
        frame = behaviour(harness.data(TRANSACTIONS), NEW, JUDGED[1])
        if rows is not None:
            frame.write_parquet(rows)
    else:
        frame = pl.read_parquet(rows)
    cut = split(frame, 25 if quick else every)
    print(f"{cut.teach.height:,} rows teach, {cut.cases.height} cases, {cut.judged.height:,} rows judged", flush=True)
    ks, draws = ((5,), 1) if quick else ((1, 5, 20, 50), draws)
    budget = max(2, round(100 / every))
    found = compare(cut, ("map_network",) if quick else KEEPERS, ks, draws, budget, support=2_000)
    measures = {"precision": f"at {budget} a day", "recall": f"at {budget} a day", "pr_auc": "of the new pattern"}
    measures |= {"old_recall": f"at {budget} a day"}
    table = found.group_by("way", "k").agg(pl.col(*measures).mean()).sort("k", "way").to_dicts()
    (pooled,) = (line for line in table if line["way"] == "pooled")
    return [
        Figure(
            dotted("fraud", line["way"], f"cases_{line['k']}", measure),
            line[measure],
            unit,
            line[measure] / pooled[measure] if pooled[measure] else None,
            "pooled",
        )
        for line in table
        for measure, unit in measures.items()
    ]


if __name__ == "__main__":
    own = harness.options()
    own.add_argument("--every", type=int, default=5, help="Keep one card of so many.")
    own.add_argument("--draws", type=int, default=3)
    own.add_argument("--rows", type=Path, help="Parquet of the extract, written if it is not there.")
    harness.main(benchmark, own)
