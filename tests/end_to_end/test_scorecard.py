"""Published scorecards: grade, points, reasons, what abstained segments show, and `explain` on what was published."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from metarisk import jobs
from metarisk.adapt import LEVEL_RULES
from metarisk.answers import explain as explaining
from metarisk.cli import app
from metarisk.domain import DataError, Target, Warehouse
from metarisk.job import outcomes
from metarisk.portfolios import load_portfolio
from metarisk.registry import load
from metarisk.steps import derive as deriving
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, Project
from tests.warehouses import ROOT


def published(warehouse: Warehouse, columns: str = "*") -> list[dict[str, object]]:
    return warehouse.rows(f"SELECT {columns} FROM metarisk.score_current ORDER BY score DESC, entity")


def test_every_score_has_points_and_a_grade_and_the_riskiest_have_reasons(published_project: Project) -> None:
    rows = published(published_project.warehouse)
    for row in rows:
        odds = math.log(row["score"] / (1 - row["score"]))
        assert row["points"] == pytest.approx(600 - 20 / math.log(2) * (math.log(50) + odds))
        assert row["expected_loss"] is None
    assert [row["grade"] for row in rows] == sorted((row["grade"] for row in rows), reverse=True)
    told = [row["reasons"] is not None for row in rows]
    assert told == sorted(told, reverse=True)
    assert 0 < sum(told) < 0.1 * len(rows)
    for reason in json.loads(str(rows[0]["reasons"])):
        assert reason["points"] < 0
        assert {*reason} == {"code", "text", "points"}


def test_an_abstained_segment_shows_pooled_score_quantile_and_bound(duckdb: Project) -> None:
    duckdb.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nmin_support_rows = 60\n[validation]")
    duckdb.nightly()
    rows = duckdb.warehouse.rows("SELECT * FROM metarisk.adaptation")
    assert "abstained" in {row["status"] for row in rows}
    mature = pl.col("opened_on").dt.offset_by("12mo") + pl.duration(days=30) <= FIRST
    bad = (pl.col("event_date") <= pl.col("opened_on").dt.offset_by("12mo")) & (pl.col("known_date") <= FIRST)
    labels = tiny.book().filter(mature & (pl.col("amount") >= 0)).group_by("region", "product")
    known = {f"{r}|{p}": (n, d) for r, p, n, d in labels.agg(n=pl.len(), d=bad.sum()).iter_rows()}
    for row in rows:
        assert row["level_shift"] is not None
        if row["status"] != "abstained":
            assert row["pooled_score"] is row["score_quantile"] is row["score_bound"] is None
            continue
        means = duckdb.warehouse.rows(
            "SELECT avg(score) AS mean, avg(score_high) AS high FROM metarisk.score_current WHERE segment = $segment",
            {"segment": row["segment"]},
        )[0]
        assert row["score_quantile"] == pytest.approx(means["high"])
        assert 0 < row["pooled_score"] < 1
        assert row["pooled_score"] != pytest.approx(means["mean"], rel=1e-9)
        n, d = known.get(row["segment"], (0, 0))
        if not n:
            assert row["score_bound"] == 1
            continue
        # the binomial tail at the bound is 10 %: its definition
        tail = sum(
            math.comb(n, k) * row["score_bound"] ** k * (1 - row["score_bound"]) ** (n - k) for k in range(d + 1)
        )
        assert tail == pytest.approx(0.1, abs=1e-9)


def test_explain_adds_up_to_what_was_published(published_project: Project) -> None:
    rows = published(published_project.warehouse)
    for row in (rows[0], rows[-1]):
        found = explaining.explain(published_project.context(FIRST), str(row["entity"]))
        link = found.start.link + sum(part.link for part in found.parts)
        assert found.lineage["recipe"] == "hazard_head"
        assert link == pytest.approx(math.log(-math.log1p(-row["score"])), abs=1e-9)
        assert len(found.curve) == 12
        assert list(found.curve) == sorted(found.curve)
        assert found.curve[-1] == pytest.approx(row["score"], abs=1e-12)
        assert found.milestones == {"within the whole horizon of 12 months": found.curve[-1]}
        points = found.start.points + sum(part.points for part in found.parts)
        assert points == pytest.approx(row["points"], abs=1e-8)
        (lineage,) = published_project.warehouse.rows(
            "SELECT support_hash, adaptation_id FROM metarisk.adaptation WHERE segment = $s", {"s": str(row["segment"])}
        )
        assert lineage.items() <= found.lineage.items()
        # at risk for a whole month, a reporting lag ago
        region, product = str(row["segment"]).split("|")
        own = tiny.book().filter(
            (pl.col("region") == region) & (pl.col("product") == product) & (pl.col("amount") > 0),
            pl.col("opened_on").dt.offset_by("1mo") <= FIRST - timedelta(days=30),
        )
        assert found.lineage["support_rows"] == own.height
        opened = own["opened_on"]
        assert (found.lineage["opened_from"], found.lineage["opened_until"]) == (opened.min(), opened.max())
        assert found.lineage["last_known"] == own.filter(pl.col("known_date") <= FIRST)["known_date"].max()
        if row["reasons"] is not None:
            assert json.loads(str(row["reasons"])) == [dict(reason) for reason in found.reasons]


def test_a_curve_has_its_points_by_name() -> None:
    def milestones(curve: list[float], target: Target) -> dict[str, float]:
        return explaining._milestones(curve, replace(load_portfolio(ROOT, "consumer_loans"), targets=(target,)))

    curve = [period / 1000 for period in range(1, 37)]
    assert milestones(curve, Target("pd", horizon_months=36)) == {
        "within 12 months": 0.012,
        "within the whole horizon of 36 months": 0.036,
    }
    assert list(milestones(curve[:30], Target("pd", horizon_days=30))) == ["within the whole horizon of 30 days"]
    assert milestones([], Target("pd", horizon_months=12)) == {}


def test_explain_says_what_it_cannot_explain(published: Project) -> None:
    context = published.context(FIRST)
    with pytest.raises(DataError, match=r"no published score of 'nobody'.*Remedy: check the entity's id"):
        explaining.explain(context, "nobody")
    entity = str(published.scores()["entity"][0])
    with pytest.raises(DataError, match="no night of this date is published"):
        explaining.explain(published.context(CUT_OFF), entity)
    shutil.rmtree(published.settings.data_dir / "lake" / NAME / str(FIRST))
    with pytest.raises(DataError, match=r"no longer whole in the lake.*--restate"):
        explaining.explain(context, entity)


def test_the_command_prints_every_contribution(published: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = published.settings
    monkeypatch.setenv("METARISK_PROJECT", str(settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", settings.warehouse.get_secret_value())
    entity = str(published.scores().sort("score")["entity"][-1])
    result = CliRunner().invoke(app, ["explain", "--portfolio", NAME, "--entity", entity], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    for word in (
        entity,
        str(FIRST),
        "amount",
        "income",
        "channel",
        "first_credit_on",
        "segment",
        "support",
        "hazard_head",
    ):
        assert word in result.output
    found = CliRunner().invoke(app, ["explain", "-p", NAME, "--entity", entity, "--as-of", str(FIRST), "--json"])
    assert json.loads(found.output)["score"]["entity"] == entity


def test_a_week_on_the_same_data_changes_no_first_reason(duckdb: Project) -> None:
    before = duckdb.warehouse.rows("SELECT model_id FROM metarisk.model")[0]["model_id"]
    assert duckdb.warehouse.rows("SELECT 1 FROM metarisk.evidence WHERE protocol = 'reasons'") == []
    # a new configuration is a new model, whatever it was trained on
    duckdb.edit("portfolios/tiny.toml", 'title = "Tiny loans"', 'title = "Small loans"')
    again = duckdb.weekly()
    assert again.model_id != before
    (row,) = duckdb.warehouse.rows("SELECT * FROM metarisk.evidence WHERE protocol = 'reasons'")
    assert (row["value"], row["model_id"]) == (0.0, again.model_id)
    assert row["rows"] >= 1
    assert before in row["note"]


def test_a_week_on_other_data_tells_how_many_first_reasons_changed(duckdb: Project) -> None:
    frame = tiny.book()
    duckdb.edit("portfolios/tiny.toml", "[validation]", "[reasons]\nshare = 1.0\n[validation]")
    duckdb.load(frame.with_columns(pl.col("amount").reverse(), pl.col("income").reverse()))
    duckdb.weekly()
    (row,) = duckdb.warehouse.rows("SELECT * FROM metarisk.evidence WHERE protocol = 'reasons'")
    assert 0 < row["value"] <= 1
    assert row["rows"] > 100


def test_the_level_of_a_week_is_in_its_evidence_and_its_model(duckdb: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    few = "SELECT * FROM metarisk.evidence WHERE protocol = 'level'"
    assert duckdb.warehouse.rows(few) == []
    monkeypatch.setattr("metarisk.evidence.level.MIN_JUDGED_EVENTS", 1)
    duckdb.edit("portfolios/tiny.toml", 'title = "Tiny loans"', 'title = "Small loans"')
    week = duckdb.weekly()
    rows = duckdb.warehouse.rows(few)
    assert len(rows) == len(LEVEL_RULES) - 1
    chosen = [row for row in rows if row["note"].endswith("; chosen")]
    assert all(row["high"] < 0 for row in chosen)
    card = json.loads(load(duckdb.settings.data_dir / "registry", NAME, week.model_id)["scorecard.json"])
    assert bool(card["level"]["months"]) == bool(chosen)


PROTECTED_TOML = tiny.TOML.replace('exit_date = "exit_date"', 'exit_date = "exit_date"\nprotected = ["age_band"]')
PROTECTED_SQL = tiny.CAREFUL.replace(
    "SELECT loan_id,", "SELECT CASE WHEN substr(loan_id, 6, 1) < '3' THEN 'young' ELSE 'old' END AS age_band, loan_id,"
)


def test_outcomes_of_published_scores_and_protected_groups_are_reported(make: Callable[..., Project]) -> None:
    project = make(toml=PROTECTED_TOML, sql=PROTECTED_SQL)
    project.weekly(date(2024, 12, 31))
    assert project.count("grade_backtest") == 0
    nights = [date(2025, 1, 15), date(2025, 1, 31), date(2025, 2, 28)]
    for night in nights:
        project.nightly(night)
    week = project.weekly()
    rows = project.warehouse.rows("SELECT * FROM metarisk.grade_backtest_current ORDER BY cohort, place")
    scores = project.warehouse.rows("SELECT entity, as_of, score FROM metarisk.score_history ORDER BY as_of")
    book = {row["loan_id"]: row for row in tiny.book().iter_rows(named=True)}
    # by hand: the first month end within 31 days of opening, and a default known in the horizon
    seen: dict[str, tuple[float, bool]] = {}
    for row in scores:
        loan = book[row["entity"]]
        if row["as_of"] in nights[1:] and (row["as_of"] - loan["opened_on"]).days <= 31:
            end = loan["opened_on"].replace(year=loan["opened_on"].year + 1)
            bad = loan["event_date"] is not None and loan["event_date"] <= end
            seen.setdefault(row["entity"], (row["score"], bad))
    assert sum(row["rows"] for row in rows) == len(seen) > 10
    assert sum(row["events"] for row in rows) == sum(bad for _, bad in seen.values()) > 0
    assert sum(row["mean_score"] * row["rows"] for row in rows) == pytest.approx(sum(s for s, _ in seen.values()))
    assert {row["cohort"] for row in rows} <= {"2024", "2025"}
    assert {row["model_id"] for row in rows} == {week.model_id}

    # restated, nothing changes: what was published then counts. Backfilled, March has no proof; bitemporal, both count.
    context = project.context(CUT_OFF)
    opened = tiny.book().lazy().select(entity="loan_id", opened="opened_on")

    def proofs() -> dict[date, float]:
        found = pl.concat(outcomes.first_scores(project.context(CUT_OFF), opened, date(2025, 1, 1), CUT_OFF))
        return dict(found.group_by("published").agg(pl.col("score").sum()).iter_rows())

    before = proofs()
    assert set(before) == set(nights[1:])
    project.load(tiny.book().with_columns(pl.col("amount") * 1.2))
    project.nightly(nights[1], "restatement", "wrong unit")
    march = date(2025, 3, 31)
    jobs.backfill(project.context(march), march, train=False)
    assert proofs() == pytest.approx(before, rel=1e-12)
    published = deriving.published_scores(context, datetime(2030, 1, 1, tzinfo=UTC))
    assert set(published["as_of"]) == {*nights}
    project.edit("portfolios/tiny.toml", 'extract = "tiny.sql"', 'extract = "tiny.sql"\nbitemporal = true')
    after = proofs()
    assert set(after) == {*nights[1:], march}
    assert after[nights[1]] != pytest.approx(before[nights[1]], rel=1e-6)
    assert after[nights[2]] == pytest.approx(before[nights[2]], rel=1e-12)
    published = deriving.published_scores(project.context(CUT_OFF), datetime(2030, 1, 1, tzinfo=UTC))
    assert set(published["as_of"]) == {*nights, march}

    fairness = project.warehouse.rows(
        "SELECT * FROM metarisk.evidence WHERE protocol = 'fairness' AND model_id = $id", {"id": week.model_id}
    )
    assert {(row["slice"], row["metric"]) for row in fairness} == {
        (f"age_band = {group}", metric)
        for group in ("young", "old")
        for metric in ("adverse_impact_ratio", "event_rate_over_mean_score")
    }
    assert max(row["value"] for row in fairness if row["metric"] == "adverse_impact_ratio") == 1
    files = load(project.settings.data_dir / "registry", NAME, week.model_id)
    assert not [name for name, content in files.items() if b"age_band" in content]


def test_applications_unlike_any_labelled_row_are_marked_and_counted_by_segment(make: Callable[..., Project]) -> None:
    """North gets a channel that no loan ever had; nobody's label is made up for it."""
    toml = tiny.TOML.replace('timezone = "UTC"', 'timezone = "UTC"\npopulation = "application"')
    toml = toml.replace("event_date =", 'booked_on = "booked_on"\nevent_date =')
    sql = tiny.CAREFUL.replace(
        "SELECT loan_id,", "SELECT CASE WHEN loan_id LIKE '%7' THEN NULL ELSE opened_on END AS booked_on, loan_id,"
    )
    project = make(toml=toml, sql=sql)
    project.weekly()
    assert (
        project.warehouse.rows("SELECT max(rows) AS n FROM metarisk.evidence WHERE protocol = 'features'")[0]["n"] > 0
    )
    fresh = (pl.col("opened_on") > date(2026, 6, 1)) & (pl.col("region") == "north")
    project.load(tiny.book().with_columns(channel=pl.when(fresh).then(pl.lit("fax")).otherwise("channel")))
    page = project.nightly(FIRST).page
    rows = published(project.warehouse, "entity, segment, extrapolated, score")
    fax = set(tiny.book().filter(fresh)["loan_id"])
    found = {row["entity"] for row in rows if row["extrapolated"]}
    assert any(str(row["entity"]).endswith("7") for row in rows)
    known = project.warehouse.rows("SELECT sum(support_rows) AS n FROM metarisk.adaptation")[0]["n"]
    there = tiny.book().filter(pl.col("opened_on") <= FIRST, pl.col("amount") >= 0)["loan_id"].str.ends_with("7")
    # all but the youngest loans are at risk for a known month; with the rejected ones they would be more
    assert 0.9 * (~there).sum() < known <= (~there).sum()
    assert fax & {row["entity"] for row in rows} <= found
    assert len(found) < 0.2 * len(rows)
    assert all(row["extrapolated"] is not None for row in rows)
    counts = {
        row["segment"]: row["extrapolated"]
        for row in project.warehouse.rows("SELECT segment, extrapolated FROM metarisk.segment_summary")
    }
    by_hand = Counter(row["segment"] for row in rows if row["extrapolated"])
    assert counts == {segment: by_hand[segment] for segment in counts}
    assert page is not None
    assert f"{len(found)} rows of" in page.read_text()


def test_a_booked_portfolio_marks_nobody(published_project: Project) -> None:
    rows = published_project.warehouse.rows("SELECT DISTINCT extrapolated FROM metarisk.score_current")
    assert [row["extrapolated"] for row in rows] == [None]
