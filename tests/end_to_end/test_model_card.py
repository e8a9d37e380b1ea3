"""The model card: what it holds, in both forms, and that a person's approval gets into it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from metarisk import registry
from metarisk.cli import app
from metarisk.pages.cards.model import Section
from metarisk.pages.model_card import ModelCard
from metarisk.record import models as records
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, NAME, Project


def test_a_card_tells_what_a_validator_asks(duckdb: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb.edit(
        "portfolios/tiny.toml",
        '[features.amount]\nkind = "numeric"',
        '[features.amount]\nkind = "numeric"\nmonotone = 1',
    )
    model_id = duckdb.weekly().model_id
    monkeypatch.setenv("METARISK_PROJECT", str(duckdb.settings.project))
    folder = duckdb.settings.data_dir / "reports" / NAME
    assert (folder / f"model-{model_id}.html").exists()
    by_week = (folder / f"model-{model_id}.md").read_text().replace("\\_", "_")
    assert "Ann Validator" not in by_week
    with duckdb.warehouse.transaction() as transaction:
        reason = ("sound & tested", "Ann Validator")
        context = duckdb.context(CUT_OFF)
        records.append_states(transaction, context.job, context.clock(), model_id, ["approved"], *reason)
    card = ["models", "card", "-p", NAME, "--json", "--model"]
    paths = json.loads(CliRunner().invoke(app, [*card, model_id]).output)
    text, page = Path(paths["markdown"]).read_text(), Path(paths["html"]).read_text()
    assert "sound &amp; tested" in page
    for told in (text.replace("\\_", "_"), page):
        for word in (
            model_id,
            "hazard_head",
            "loss of map_head less the opponent's" if told is not page else "loss of map_head",
            str(CUT_OFF),
            "Ann Validator",
        ):
            assert word in told
    for title in ("Who approved it", "Data", "Features", "Evidence", "Segments", "Calibration", "Limits", "Hashes"):
        assert f"\n## {title}\n" in text
        assert f"<h2>{title}</h2>" in page
    amounts = tiny.book().filter(pl.col("amount") > 0)["amount"]
    (line,) = (line for line in text.splitlines() if line.startswith("| amount |"))
    assert "never lowers the score" in line
    low, high = (float(value.replace(",", "")) for value in line.split("|")[4].split(" to "))
    # it is shown with four digits
    assert amounts.min() <= low * 1.0005 and high <= amounts.max() * 1.0005 and low < high
    about = registry.manifest(duckdb.settings.data_dir / "registry", NAME, model_id)
    assert all(digest in text for digest in about["files"].values())
    measured = duckdb.warehouse.rows(
        "SELECT e.value, e.low, e.high FROM metarisk.evidence e JOIN metarisk.model m ON m.model_id = e.model_id "
        "WHERE m.model_id = $id AND e.candidate = m.recipe AND e.slice = 'all' "
        "AND e.metric IN ('log_loss', 'auc', 'brier', 'ece')",
        {"id": model_id},
    )
    plain = text.replace("\\", "")
    assert len(measured) == 4
    for row in measured:
        assert row["low"] < row["value"] < row["high"]
        value, low, high = (float(f"{row[name]:.4g}") for name in ("value", "low", "high"))
        assert f"{value:g} [{low:g}, {high:g}]" in plain
    judged = duckdb.warehouse.rows("SELECT slice, rows, events FROM metarisk.evidence WHERE protocol = 'segments'")
    for row in judged:
        assert f"| {row['slice']} | {row['rows']} | {row['events']} |" in plain
    assert "ECE on judged rows: " in plain.split("## Calibration")[1].split("## Limits")[0]
    refused = CliRunner().invoke(app, [*card, "nobody"])
    assert "there is no model nobody" in json.loads(refused.output)["what"]


def test_what_data_say_is_no_markup() -> None:
    bad = "<script>alert(1)</script> | [x](y) *z*"
    data = Section("Data", [bad], [{"feature": bad}])
    card = ModelCard(title=bad, portfolio=NAME, as_of=CUT_OFF, run_id="", facts={"state": bad}, cards={"data": data})
    assert "<script>" not in card.html()
    assert card.html().count("&lt;script&gt;") == 5
    text = card.markdown()
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\\| \\[x\\](y) \\*z\\*" in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| \\<")} == {2}
