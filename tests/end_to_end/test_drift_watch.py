"""The drift watch of real nights: alerts that live in the warehouse, pages, commands, early labels of old scores."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from metarisk import drift, jobs, registry
from metarisk.cli import app
from metarisk.domain import DataError
from metarisk.job.population import SCORE, FrameFile
from metarisk.jobs import Quiet
from metarisk.record import models as records
from metarisk.steps import alerts as alerting
from metarisk.steps import drift as watching
from metarisk.upkeep import alerts
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, NAME, SECOND, Project

THIRD = date(2026, 7, 1)


@dataclass
class Heard(Quiet):
    """What was said and raised."""

    warnings: list[str] = field(default_factory=list)
    events: list[tuple[str, Mapping[str, str | Path]]] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        self.events.append((name, about))

    def table(self, key: str, title: str, rows: Any) -> None:
        self.tables[key] = rows


def night(project: Project, day: date) -> Heard:
    """Run a night and listen."""
    heard = Heard()
    jobs.nightly(project.context(day, reporter=heard))
    return heard


def poorer(frame: pl.DataFrame) -> pl.DataFrame:
    """A book in which everybody's income has halved."""
    return frame.with_columns(pl.col("income") * 0.5)


def rows(project: Project, sql: str) -> list[dict[str, Any]]:
    return project.warehouse.rows(f"SELECT * FROM metarisk.{sql}")


def test_an_alert_is_told_once_raises_an_event_and_closes_after_calm_nights(published_project: Project) -> None:
    project = published_project
    project.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nalert_close_nights = 2\n\n[validation]")
    assert rows(project, "drift_alert") == []
    project.load(poorer(tiny.book()))
    heard = night(project, SECOND)
    (wide,) = [event for event in rows(project, "drift_alert") if event["feature"] == "income"]
    assert (wide["event"], wide["segment"], wide["told"], wide["author"]) == ("opened", None, "message", "metarisk")
    assert any("income in the whole portfolio" in said and wide["alert_id"] in said for said in heard.warnings)
    (_, alert), (name, about) = heard.events
    assert isinstance(alert["page"], Path)
    assert alert["page"].exists()
    assert wide["alert_id"] in str(alert["alerts"])
    assert (name, about["portfolio"], about["as_of"]) == (alerting.PORTFOLIO_WIDE, NAME, str(SECOND))
    assert len(heard.tables["drift"]) == 10
    assert heard.tables["drift"][0]["status"] == "alert"
    project.load(tiny.book().with_columns(pl.col("income") * 0.8))
    assert not any("income" in said for said in night(project, THIRD).warnings)
    project.load(tiny.book())
    for days in (1, 2):
        assert wide["alert_id"] in {alert["alert_id"] for alert in rows(project, "drift_alert_open")}
        night(project, THIRD + timedelta(days=days))
    assert wide["alert_id"] not in {alert["alert_id"] for alert in rows(project, "drift_alert_open")}
    closed = [event for event in rows(project, "drift_alert") if event["event"] == "closed"]
    assert [event["detail"] for event in closed if event["alert_id"] == wide["alert_id"]] == ["ok for 2 nights"]


def test_a_backfilled_night_opens_no_alert_today(duckdb: Project) -> None:
    night(duckdb, THIRD)
    duckdb.load(poorer(tiny.book()))
    heard = night(duckdb, FIRST)
    assert "alert" in {row["status"] for row in rows(duckdb, "drift_metric") if row["as_of"] == FIRST}
    assert (rows(duckdb, "drift_alert"), heard.events) == ([], [])


@pytest.fixture
def drifted(published: Project) -> Project:
    """A project whose second night found that income moved."""
    published.load(poorer(tiny.book()))
    night(published, SECOND)
    return published


def test_people_acknowledge_and_mute_by_name(drifted: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARISK_PROJECT", str(drifted.settings.project))

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["drift", *words], catch_exceptions=False)

    alert = next(row for row in rows(drifted, "drift_alert_open") if row["feature"] == "income")["alert_id"]
    listed = run("-p", NAME)
    assert alert in listed.stdout
    assert "income in the whole portfolio: psi" in listed.stdout
    who = ["--alert", alert, "--by", "ann", "--reason", "pay cuts"]
    assert "acknowledged by ann" in run("ack", "-p", NAME, *who).stdout
    assert "muted by ann until 2027-01-31" in run("mute", "-p", NAME, *who, "--until", "2027-01-31").stdout
    (row,) = [row for row in rows(drifted, "drift_alert_open") if row["alert_id"] == alert]
    assert (row["acknowledged_by"], row["muted_until"], row["muted_by"]) == ("ann", date(2027, 1, 31), "ann")
    assert f"{alert}  since {SECOND}  income in whole portfolio, acknowledged by ann" in run("-p", NAME).stdout
    pictured = run("-p", NAME, "--feature", "income")
    assert "Share of rows" in pictured.stdout
    assert "alert: income in the whole portfolio: psi" in pictured.stdout
    sides = json.loads(run("-p", NAME, "--feature", "income", "--json").stdout)["sides"]
    for side in ("reference", "current"):
        assert sum(line[side] for line in sides) == pytest.approx(1.0)
    assert sides[0]["current"] > 2 * sides[0]["reference"]
    wrong = run("-p", NAME, "--feature", "incme")
    assert wrong.exit_code == 1
    with pytest.raises(DataError, match="no open alert 'nobody'"):
        alerts.acknowledge(drifted.context(SECOND), "nobody", "ann", "why")


def test_the_drift_page_shows_what_moved_and_the_nights_page_leads_to_it(drifted: Project) -> None:
    folder = drifted.settings.data_dir / "reports" / NAME
    (page,) = folder.glob(f"drift-{SECOND}-*.html")
    text = page.read_text()
    alert = next(row for row in rows(drifted, "drift_alert_open") if row["feature"] == "income")["alert_id"]
    assert alert in text
    assert "an event asked the weekly flow to start early" in text
    assert text.count("<svg") >= 3
    assert "http" not in text.replace("http://www.w3.org", "").replace("http-equiv", "")
    (night_page,) = folder.glob(f"{SECOND}-*.html")
    assert f'href="{page.name}"' in night_page.read_text()


def other_champion(project: Project, change: Mapping[str, bytes | None]) -> None:
    """A champion with other files (None: without them), as a model of another version would have."""
    old = project.warehouse.rows("SELECT model_id FROM metarisk.model_current WHERE state = 'champion'")[0]["model_id"]
    root = project.settings.data_dir / "registry"
    files = {name: content for name, content in (registry.load(root, NAME, old) | dict(change)).items() if content}
    new, _ = registry.save(root, NAME, files, {"by": "test"})
    with project.warehouse.transaction() as transaction:
        (row,) = transaction.rows("SELECT * FROM metarisk.model WHERE model_id = $id", {"id": old})
        later = {"model_id": new, "created_at": row["created_at"] + timedelta(hours=1)}
        frame = pl.DataFrame([row | later], infer_schema_length=None)
        transaction.append("metarisk.model", frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches())
        context = project.context(row["as_of"])
        at = context.clock()
        records.append_states(transaction, context.job, at, new, ["candidate", "champion"], "of another version")


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


KEPT = ("reference.parquet", "reference.scores.parquet", "reference.labels.parquet", "reference.sample.parquet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict.fromkeys((*KEPT, "curve.json")), ""),
        ({"reference.parquet": parquet(pl.DataFrame({"feature": ["x"], "share": [0.5]}))}, "of another version"),
        ({"reference.parquet": b"PAR1 torn"}, "cannot be read"),
    ],
    ids=["missing", "another version", "torn"],
)
def test_a_reference_that_cannot_be_used_is_blind_and_the_night_is_published(
    duckdb: Project, change: Mapping[str, bytes | None], said: str
) -> None:
    other_champion(duckdb, change)
    heard = night(duckdb, FIRST)
    found = {row["metric"]: row for row in rows(duckdb, "drift_metric") if row["segment"] is None}
    assert (found["psi"]["status"], found["psi"]["feature"]) == ("blind", None)
    assert "weekly" in found["psi"]["detail"]
    assert found["domain_auc"]["status"] == "blind"
    assert duckdb.count("score_current") > 0
    assert said in " ".join(heard.warnings)


def test_early_events_are_those_of_scores_published_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin by hand: month ends, first scores, curve and known events, one loan at a time; the job reads parts."""
    monkeypatch.setattr("metarisk.lake.parts.ROWS_A_PART", 97)
    book = tiny.book(2_000)
    project = tiny.make(tmp_path / "early", frame=book)
    trained = project.weekly(date(2026, 1, 28))
    ends = (date(2026, 1, 31), date(2026, 2, 28))
    for day in (*ends, FIRST):
        night(project, day)
    files = registry.load(project.settings.data_dir / "registry", NAME, trained.model_id)
    curve = np.array(json.loads(files["curve.json"]))
    assert (curve[0], curve[-1], len(curve)) == (pytest.approx(0.0, abs=1e-9), 1.0, 13)
    published = {
        (row["as_of"], row["entity"]): row["score"]
        for row in rows(project, "score_history")
    }  # fmt: skip
    expected = events = loans = 0.0
    for loan in book.iter_rows(named=True):
        end = next(
            (e for e in ends if 0 <= (e - loan["opened_on"]).days <= 31 and (e, loan["loan_id"]) in published), None
        )
        if end is None:
            continue
        months = [
            sum(_later(loan["opened_on"], m) <= on - timedelta(days=30) for m in range(1, 13)) for on in (end, FIRST)
        ]
        score = published[end, loan["loan_id"]]
        loans += 1
        expected += 1 - (1 - score) ** (curve[months[1]] - curve[months[0]])
        if loan["event_date"] is not None and loan["event_date"] <= _later(loan["opened_on"], months[1]):
            events += 1
    (row,) = [
        row for row in rows(project, f"drift_metric WHERE as_of = DATE '{FIRST}'")
        if row["metric"] == "early_events" and row["segment"] is None
    ]  # fmt: skip
    assert events >= 5
    assert row["n_cur"] == loans
    assert row["value"] == pytest.approx(events / expected, rel=1e-6)
    cells = {row["segment"]: row for row in rows(project, "segment_status")}
    assert set(cells) == set(project.scores(FIRST)["segment"])
    thin = [row for row in cells.values() if (row["min_detectable_ratio"] or 9.0) > 2.0]
    assert thin
    assert {row["status"] for row in thin} <= {"blind", "watch", "alert", "concept drift suspected"}


def _later(day: date, months: int) -> date:
    found: date = pl.select(pl.lit(day).dt.offset_by(f"{months}mo")).item()
    return found


TOY = '''
"""How many rows are scored, as a measure."""

import polars as pl

from metarisk.drift.decide import SCHEMA
from metarisk.drift.measure import Measure

FILE = "reference.rows.txt"


def rows(scored):
    return scored.frame.select(pl.len()).collect().item()


def keep(week):
    return {FILE: str(rows(week.scored)).encode()}


def judge(night):
    before, now = int(night.beside.files[FILE]), rows(night.scored)
    found = {"level": "all", "metric": "rows", "value": now / before, "n_ref": before, "n_cur": now, "status": "ok"}
    return pl.DataFrame([found], schema=SCHEMA)


MEASURE = Measure("rows", judge, keep)
'''


def test_a_measure_is_a_file_and_a_row(duckdb: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_measure.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    toy = importlib.import_module("toy_measure").MEASURE
    monkeypatch.setattr(watching, "MEASURES", [toy])
    known = FrameFile.write([pl.DataFrame({SCORE: [0.1, 0.2, 0.4, 0.7]})], tmp_path / "known.parquet")
    nobody: Any = None  # the toy asks neither for the model nor for the rows that taught it
    kept = watching.reference(duckdb.context(FIRST), nobody, nobody, known)
    assert kept == {"reference.rows.txt": b"4"}
    other_champion(duckdb, kept)
    monkeypatch.setattr(watching, "MEASURES", [*drift.MEASURES, toy])
    night(duckdb, FIRST)
    (row,) = rows(duckdb, "drift_metric WHERE metric = 'rows'")
    scored = len(duckdb.scores(FIRST))
    assert (row["n_ref"], row["n_cur"], row["value"]) == (4, scored, scored / 4)
    assert {"psi", "domain_auc", "label_rate"} < {row["metric"] for row in rows(duckdb, "drift_metric")}
