"""A target that is a count with an exposure, and a risk type that derives more from each night."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from metarisk import jobs
from metarisk.answers.replay import reproduce
from metarisk.domain import ConfigError, DataError, Derived, NightView, RiskSpec
from metarisk.jobs import WeekResult
from metarisk.risks import RISKS
from metarisk.steps.derive import published_scores
from tests.end_to_end import tiny
from tests.end_to_end.tiny import TOML, Project
from tests.warehouses import publish_night, schema

CUT_OFF, NIGHTS = date(2026, 5, 31), (date(2026, 6, 1), date(2026, 6, 2))
VALUES_TOML = (
    TOML.replace('risk = "credit"', 'risk = "counts"\npopulation = "latest"')
    .replace('["pooled_logistic", "map_head"]', '["pooled_logistic", "segment_lightgbm", "map_head"]')
    .replace('suite = "tiny.json"', 'suite = "tiny.json"\nalso = { caps = "caps.sql" }')
    .replace(
        'event_date = "event_date"\nknown_date = "known_date"\nexit_date = "exit_date"',
        'value = "events"\nknown_date = "known_date"\nexposure = "hours"\nnumbers = ["insured"]',
    )
    .replace('name = "pd_12m"\nhorizon_months = 12\nreporting_lag_days = 30', 'name = "events_1m"\nhorizon_months = 1')
    .split("[features.channel]")[0]
    + "[validation]\nfolds = 1\nfold_months = 3\n\n[options]\ncap = 2.0\n"
)
SQL = f"""
SELECT loan_id, opened_on, region, product, amount, income, hours, insured, events, known_date
FROM {tiny.TABLE} WHERE opened_on <= $as_of
"""
RULE = {
    "type": "expect_column_values_to_be_between",
    "severity": "critical",
    "kwargs": {"column": "hours", "min_value": 0, "strict_min": True},
}
SITES, MONTHS = 60, 30


WALKED = "SELECT * FROM metarisk.evidence WHERE slice = 'all' AND protocol = 'walk_forward'"


def book() -> pl.DataFrame:
    """A row a site and month with the events of the month; regions differ in their rate, two of them are thin."""
    rng = np.random.default_rng(3)
    region = rng.choice(6, SITES, p=[0.3, 0.3, 0.2, 0.12, 0.05, 0.03])
    start = [date(2024 + month // 12, month % 12 + 1, 1) for month in range(MONTHS)]
    frame = pl.DataFrame(
        {
            "loan_id": [f"S{site:03d}" for _ in range(MONTHS) for site in range(SITES)],
            "opened_on": [day for day in start for _ in range(SITES)],
            "region": [f"r{region[site]}" for _ in range(MONTHS) for site in range(SITES)],
            "product": ["p"] * (MONTHS * SITES),
            "amount": rng.lognormal(0, 1, MONTHS * SITES),
            "income": rng.lognormal(0, 1, MONTHS * SITES),
            "hours": rng.lognormal(8, 1, MONTHS * SITES),
            "insured": rng.lognormal(3, 1, MONTHS * SITES),
        }
    )
    effect = np.array([0.0, 0.8, -0.6, 1.2, -1.0, 0.6])[np.tile(region, MONTHS)]
    rate = frame["hours"].to_numpy() * np.exp(-8.5 + effect + 0.4 * np.log(frame["amount"].to_numpy()))
    return frame.with_columns(
        events=pl.Series(rng.poisson(rate)).cast(pl.Float64), known_date=pl.col("opened_on").dt.offset_by("1mo")
    )


def doubled(view: NightView) -> Derived:
    """Twice each score under a cap, and how nights before and history compare."""
    cap = float(view.options["cap"]) * view.tables["caps"].collect()["factor"].sum()
    scores = view.scores.select("entity", "segment", target=pl.lit("doubled"), score=(2 * pl.col("score")).clip(0, cap))
    known = view.history.filter(pl.col("events").is_not_null()).collect()
    said = view.score(known)
    before = view.published()
    measures = pl.DataFrame(
        {
            "kind": ["level", "before", "insured"],
            "item": ["all"] * 3,
            "metric": ["said_over_came", "rows", "sum"],
            "value": [said.sum() / known["events"].sum(), float(before.height), view.rows["insured"].sum()],
        }
    )
    return Derived(scores, measures)


COUNTS = RiskSpec(
    name="counts",
    likelihood="poisson",
    label="value",
    candidates=("pooled_logistic", "map_head"),
    default="pooled_logistic",
    promotion="interval",
    score_unit="events in the month",
    derive=doubled,
    options={"cap": 10.0},
)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RISKS, "counts", COUNTS)  # type: ignore[arg-type]


@pytest.fixture
def project(counts: None, tmp_path: Path) -> Project:
    return made(tmp_path / "project")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, WeekResult]:
    """A project and its week; to be copied."""
    project = made(tmp_path_factory.mktemp("counts") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RISKS, "counts", COUNTS)  # type: ignore[arg-type]
        return project, project.weekly(CUT_OFF)


@pytest.fixture
def trained(counts: None, once: tuple[Project, WeekResult], tmp_path: Path) -> Project:
    """A project of one's own after its week."""
    return tiny.copy(once[0], tmp_path / "trained")


def made(folder: Path) -> Project:
    made = tiny.make(folder, frame=book(), toml=VALUES_TOML, sql=SQL, rules=[RULE])
    caps = f"SELECT 1.5 AS factor, max(opened_on) AS day FROM {tiny.TABLE} WHERE opened_on <= $as_of"
    (made.settings.project / "sql" / "extracts" / "caps.sql").write_text(caps)
    return made


def test_a_week_and_nights_of_counts(trained: Project, once: tuple[Project, WeekResult]) -> None:
    project, week = trained, once[1]
    assert week.recipe == "map_head"
    assert week.promoted
    evidence = {
        (row["candidate"], row["metric"]): row
        for row in project.warehouse.rows(
            "SELECT * FROM metarisk.evidence WHERE slice = 'all' AND protocol = 'walk_forward'"
        )
    }
    losses = {name: row["value"] for (name, metric), row in evidence.items() if metric == "poisson_deviance"}
    assert losses["map_head"] < losses["pooled_logistic"]
    assert abs(evidence["map_head", "log_level"]["value"]) < 0.2
    held_out = project.warehouse.rows("SELECT slice, value FROM metarisk.evidence WHERE protocol = 'held_out_segments'")
    assert {"k=10", "k=120"} <= {row["slice"] for row in held_out}

    first, second = (project.nightly(night) for night in NIGHTS)
    rows = project.warehouse.rows("SELECT * FROM metarisk.risk_score ORDER BY as_of, target, entity")
    frame = pl.DataFrame(rows, infer_schema_length=None)
    assert frame.group_by("as_of", "target").len()["len"].to_list() == [SITES] * 4
    scores = frame.filter(pl.col("as_of") == NIGHTS[0]).pivot("target", index="entity", values="score")
    cap = 2.0 * 1.5
    assert np.allclose(scores["doubled"], (2 * scores["events_1m"]).clip(0, cap))
    assert (scores["doubled"] == cap).any()
    latest = book().filter(pl.col("opened_on") == date(2026, 6, 1)).sort("loan_id")
    assert np.corrcoef(np.log(scores.sort("entity")["events_1m"]), np.log(latest["hours"]))[0, 1] > 0.6

    measures = project.warehouse.rows("SELECT * FROM metarisk.measure_history ORDER BY as_of, kind")
    by_kind = {(row["as_of"], row["kind"]): row["value"] for row in measures}
    assert 0.8 < by_kind[NIGHTS[0], "level"] < 1.25
    assert [by_kind[night, "before"] for night in NIGHTS] == [0, 2 * SITES]
    assert by_kind[NIGHTS[0], "insured"] == pytest.approx(latest["insured"].sum())
    outcomes = project.warehouse.rows("SELECT sum(value) AS events FROM metarisk.outcome")[0]["events"]
    since = pl.col("known_date").is_between(date(2025, 4, 27), NIGHTS[1], closed="right")
    assert outcomes == book().filter(since)["events"].sum()
    assert second.page is not None
    page = second.page.read_text()
    assert "said over came" in page
    assert "deviance" in page

    again = reproduce(project.context(NIGHTS[1]), second.run_id)
    assert again.identical, again.differences
    assert project.nightly(NIGHTS[0]).outcome == "already_published"
    assert first.run_id != second.run_id


def test_published_scores_reach_as_far_back_as_the_risk_type_looks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(RISKS["counts"], look_back=timedelta(days=10))
    monkeypatch.setitem(RISKS, "counts", spec)  # type: ignore[index]
    context = project.context(NIGHTS[0])
    target = context.portfolio.target
    reach = 10 + 31 * (target.horizon_months + target.reporting_lag_months) + target.reporting_lag_days
    assert reach > 10
    context.warehouse.migrate(*schema())
    days = [NIGHTS[0] - timedelta(days=days) for days in (reach + 1, reach, 1, 0)]
    for day in days:
        publish_night(context.warehouse, day, run_id=str(day), portfolio=tiny.NAME, entities=1)
    found = published_scores(context, datetime(2030, 1, 1, tzinfo=UTC))
    assert found["as_of"].to_list() == days[1:3]


def test_a_derived_score_must_be_whole(trained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(view: NightView) -> Derived:
        return Derived(view.scores.select("entity", "segment", "target", "score"))

    monkeypatch.setitem(RISKS, "counts", replace(RISKS["counts"], derive=broken))  # type: ignore[index]
    with pytest.raises(DataError, match="is the model's own target") as error:
        trained.nightly(NIGHTS[0])
    assert "tiny" in str(error.value)
    assert trained.count("publication") == trained.count("risk_score") == 0


def test_an_option_that_the_risk_type_does_not_have_is_named(trained: Project) -> None:
    trained.edit("portfolios/tiny.toml", "cap = 2.0", "capp = 2.0")
    with pytest.raises(ConfigError, match=r"no option 'capp' \(did you mean 'cap'\?\)"):
        jobs.nightly(trained.context(NIGHTS[0]))


def test_a_row_without_exposure_stops_the_night_by_name(project: Project) -> None:
    project.load(book().with_columns(hours=pl.when(pl.col("loan_id") == "S001").then(0.0).otherwise("hours")))
    with pytest.raises(Exception, match="hours"):
        project.weekly(CUT_OFF)


def test_parameters_of_a_further_extract_are_demanded(project: Project) -> None:
    (project.settings.project / "sql" / "extracts" / "caps.sql").write_text("SELECT 1.5 AS factor")
    with pytest.raises(ConfigError, match=r"caps.sql never mentions \$as_of"):
        _ = project.context(NIGHTS[0]).portfolio
