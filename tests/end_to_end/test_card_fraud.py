"""The portfolio `card_fraud` on generated transactions: alerts, verdicts on them, and rows of a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from metarisk import jobs
from metarisk.answers import score as answering
from metarisk.cli import app
from metarisk.domain import DataError, Job
from metarisk.jobs import Context, Quiet
from metarisk.portfolios import extract_sql
from metarisk.risks.fraud.book import generate
from metarisk.settings import Settings
from metarisk.upkeep.feedback import give_feedback
from metarisk.warehouse import open_warehouse
from tests.end_to_end.tiny import REPOSITORY

NAME = "card_fraud"
CUT_OFF, EARLIER, LAST = date(2025, 5, 31), date(2025, 6, 4), date(2025, 6, 16)
BUDGET = 4
Call = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.xdist_group("great_expectations")


def context(settings: Settings, as_of: date) -> Context:
    return Context(Job(NAME, as_of), settings, Quiet())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A project with a champion of May and two nights of June, a small book of 80 cards."""
    folder = tmp_path_factory.mktemp("cards")
    for name in ("portfolios", "expectations", "sql"):
        shutil.copytree(REPOSITORY / name, folder / name)
    toml = folder / "portfolios" / f"{NAME}.toml"
    text = toml.read_text()
    candidates = next(line for line in text.splitlines() if line.startswith("candidates"))
    for old, new in (
        (candidates, 'candidates = ["pooled_logistic"]'),
        ("budget = 12", f"budget = {BUDGET}"),
        ("[validation]\nfolds = 2", "[validation]\nheld_out = false\nfolds = 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    toml.write_text(text)
    settings = Settings(project=folder, warehouse=SecretStr("duckdb:///warehouse.duckdb"), threads=1, memory_mb=256)
    warehouse = open_warehouse("duckdb:///warehouse.duckdb", settings.data_dir, threads=1, memory_mb=256)
    for name, reader in generate(0.08).items():
        warehouse.load(name, reader)
    jobs.weekly(context(settings, CUT_OFF))
    for night in (EARLIER, LAST):
        assert jobs.nightly(context(settings, night)).outcome == "published"
    return settings


@pytest.fixture
def call(published: Settings, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A function that gives a command of this project what it says; what it answers in JSON."""
    monkeypatch.setenv("METARISK_PROJECT", str(published.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", published.warehouse.get_secret_value())

    def command(name: str, *words: object) -> dict[str, Any]:
        said = CliRunner().invoke(app, [name, *map(str, words), "--portfolio", NAME, "--json"])
        answer: dict[str, Any] = json.loads(said.output)
        return answer

    return command


def rows(settings: Settings, sql: str) -> pl.DataFrame:
    warehouse = context(settings, LAST).warehouse
    return pl.DataFrame(warehouse.rows(sql), infer_schema_length=None)


def test_alerts_are_the_riskiest_cards_and_some_drawn_at_random(published: Settings) -> None:
    cases = rows(published, "SELECT * FROM metarisk.review_case ORDER BY place")
    assert cases["place"].to_list() == [1, 2, 3, 4]
    assert cases["drawn_at_random"].to_list() == [False] * 3 + [True]
    assert cases["case_id"].n_unique() == BUDGET
    scores = rows(published, "SELECT entity, score, expected_loss, reasons FROM metarisk.score_current")
    cards = rows(published, "SELECT CAST(transaction_id AS TEXT) AS entity, card_id FROM source.card_transactions")
    by_card = scores.join(cards, on="entity").group_by("card_id").agg(
        pl.col("score").max(), pl.col("expected_loss").sum()
    )  # fmt: skip
    worst = by_card.sort("score", descending=True).head(BUDGET - 1)
    assert cases["case_id"].head(3).to_list() == worst["card_id"].cast(pl.String).to_list()
    assert cases["score"].head(3).to_list() == worst["score"].to_list()
    assert cases["at_risk"].head(3).to_list() == pytest.approx(worst["expected_loss"].to_list())
    assert cases["chance"][3] == pytest.approx(1 / (by_card.height - 3))
    # The riskiest transaction of the night has reasons, and its case shows them.
    assert '"text"' in cases["reasons"][0] or '"code"' in cases["reasons"][0]


def test_an_earlier_night_is_told_by_the_labels_known_now(published: Settings) -> None:
    found = rows(published, "SELECT item, metric, value FROM metarisk.measure_current WHERE kind = 'at_budget'")
    values = dict(found.filter(pl.col("item") == str(EARLIER)).select("metric", "value").iter_rows())
    scored = rows(
        published,
        f"SELECT s.score, t.card_id, f.confirmed_on IS NOT NULL AS fraud FROM metarisk.score_history AS s "
        f"JOIN source.card_transactions AS t ON CAST(t.transaction_id AS TEXT) = s.entity "
        f"LEFT JOIN source.card_frauds AS f ON f.transaction_id = t.transaction_id AND f.confirmed_on <= DATE '{LAST}' "
        f"WHERE s.as_of = DATE '{EARLIER}'",
    )
    cards = scored.group_by("card_id").agg(pl.col("score").max(), pl.col("fraud").any())
    top = cards.sort("score", descending=True).head(BUDGET - 1)
    assert values["alerts"] == BUDGET - 1
    assert values["hits"] == top["fraud"].sum()
    assert values["precision"] == pytest.approx(top["fraud"].mean())
    if cards["fraud"].any():
        assert values["recall"] == pytest.approx(top["fraud"].sum() / cards["fraud"].sum())


def test_a_file_of_the_same_rows_gets_the_same_scores(published: Settings, call: Call, tmp_path: Path) -> None:
    job = context(published, LAST)
    with job.warehouse.stream(extract_sql(published.project, job.portfolio), {"as_of": LAST}) as reader:
        rows_of_night = pl.DataFrame(reader.read_all()).filter(pl.col("made_on") == LAST)
    outcomes = ("event_date", "confirmed_on", "settled_on")
    file = tmp_path / "new.parquet"
    rows_of_night.drop(outcomes).sample(fraction=1.0, shuffle=True, seed=0).write_parquet(file)
    found = answering.answer(job, file).sort("entity")
    score = rows(published, "SELECT * FROM metarisk.score_current ORDER BY entity")
    assert found.height > 20
    assert found.select("entity", "score", "reasons").equals(score.select("entity", "score", "reasons"))
    as_csv = tmp_path / "new.csv"
    rows_of_night.drop(outcomes).write_csv(as_csv)
    out = tmp_path / "scores.csv"
    told = call("score", as_csv, "--out", out)
    assert told == {"rows": found.height, "as_of": str(LAST), "out": str(out)}
    again = pl.read_csv(out).sort(pl.col("entity").cast(pl.String))
    assert again["score"].to_list() == pytest.approx(found["score"].to_list(), rel=1e-9)
    assert "neither .parquet nor .csv" in call("score", as_csv, "--out", tmp_path / "scores.xlsx")["what"]
    pl.concat([rows_of_night, rows_of_night.head(1)]).write_parquet(file)
    with pytest.raises(DataError, match="comes twice"):
        answering.answer(job, file)
    rows_of_night.drop("amount").write_parquet(file)
    with pytest.raises(DataError, match="no such column"):
        answering.answer(job, file)


def test_verdicts_are_taken_once_and_feed_the_next_night(published: Settings, call: Call, tmp_path: Path) -> None:
    cases = rows(published, "SELECT entity, place FROM metarisk.review_case ORDER BY place")
    next_day = LAST + timedelta(days=1)
    verdicts = pl.DataFrame(
        {
            "entity": cases["entity"].to_list(),
            "verdict": ["confirmed", "cleared", "cleared", "cleared"],
            "decided_on": [next_day] * BUDGET,
        }
    )
    file = tmp_path / "verdicts.csv"
    verdicts.write_csv(file)
    job = context(published, next_day)
    told = call("feedback", file, "--as-of", next_day, "--by", "ann")
    assert told == {"confirmed": 1, "cleared": 3, "known": 0}
    assert give_feedback(job, file, "ann").known == BUDGET
    seen = rows(published, "SELECT verdict FROM metarisk.review_case ORDER BY place")
    assert seen["verdict"].to_list() == verdicts["verdict"].to_list()
    with job.warehouse.stream(extract_sql(published.project, job.portfolio), {"as_of": next_day}) as reader:
        extracted = pl.DataFrame(reader.read_all()).with_columns(pl.col("transaction_id").cast(pl.String))
    first = extracted.filter(pl.col("transaction_id") == cases["entity"][0])
    assert first.select("event_date", "confirmed_on", "settled_on").row(0) == (LAST, next_day, next_day)
    assert extracted["settled_on"].count() == BUDGET
    for change, words in (
        ({"verdict": pl.lit("maybe")}, "another verdict"),
        ({"decided_on": pl.lit(LAST - timedelta(days=3))}, "before it was scored"),
        ({"decided_on": pl.lit(next_day + timedelta(days=1))}, "decided after"),
        ({"entity": pl.lit("nobody")}, "more than once|never scored"),
    ):
        verdicts.with_columns(**change).write_csv(file)
        with pytest.raises(DataError, match=words):
            give_feedback(job, file, "ann")
