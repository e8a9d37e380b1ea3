"""A book of ordinary shapes: a flag without dates, no segment columns, contracts that end before the horizon does."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from metarisk.answers.explain import explain
from metarisk.domain import ConfigError, DataError
from metarisk.lake import canonical, check_schema
from metarisk.lake.columns import Notes
from metarisk.portfolios import load_portfolio
from metarisk.risks import RISKS
from metarisk.steps.judge import _retrospective
from metarisk.tasks import LABEL, as_known, labelled, population
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND

TOML = (
    tiny.TOML.replace('event_date = "event_date"\nknown_date = "known_date"\n', 'label = "bad"\n')
    .replace('segments = ["region", "product"]', "segments = []")
    .replace('exit_date = "exit_date"', 'matures_on = "matures_on"')
    .replace("pd_12m", "pd_lifetime")
)
SQL = f"""
SELECT loan_id, opened_on, amount, income, channel, first_credit_on,
    CAST(opened_on + INTERVAL '1 month' * CASE WHEN product = 'cash' THEN 9 ELSE 15 END AS DATE) AS matures_on,
    CASE WHEN amount < 0 THEN NULL WHEN event_date IS NULL THEN 0 ELSE 1 END AS bad
FROM {tiny.TABLE}
WHERE opened_on <= $as_of
"""


@pytest.fixture(scope="module")
def portfolio(tmp_path_factory: pytest.TempPathFactory):
    """The portfolio alone, with its files."""
    folder = tmp_path_factory.mktemp("shapes") / "project"
    tiny.make(folder, toml=TOML, sql=SQL, frame=tiny.book().head(10))
    return load_portfolio(folder, NAME)


def rows(portfolio, *given):
    """Rows of opening, contract's end and flag in the lake's form."""
    opened, ends, bad = zip(*given, strict=True)
    frame = pl.DataFrame(
        {
            "loan_id": [f"L{i}" for i in range(len(given))],
            "opened_on": opened,
            "matures_on": pl.Series(ends, dtype=pl.Date),
            "bad": pl.Series(bad, dtype=pl.Int8),
            "amount": 1.0,
            "income": 1.0,
            "channel": "web",
            "first_credit_on": date(2000, 1, 1),
        }
    )
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    kinds = check_schema(table.schema, portfolio, FIRST)
    return pl.DataFrame(canonical(table.to_batches()[0], kinds, portfolio, Notes())).lazy()


def test_a_flag_stands_for_the_last_day_of_the_horizon(portfolio):
    long, short = date(2030, 1, 1), date(2024, 7, 1)
    found = rows(portfolio, (date(2024, 1, 1), long, 1), (date(2024, 1, 1), short, 1), (date(2024, 1, 1), None, 0))
    found = found.collect()
    assert found["bad_event_on"].to_list() == [date(2025, 1, 1), short, None]
    assert found["bad_known_on"].to_list() == [date(2025, 1, 31), short + timedelta(days=30), None]
    assert found["whole_book"].to_list() == ["(all)"] * 3


@pytest.mark.parametrize(
    ("as_of", "labels", "scored"),
    [
        (date(2024, 12, 31), {"L1": 1.0}, ["L0", "L2", "L3"]),
        (date(2025, 1, 30), {"L1": 1.0}, []),
        (date(2025, 1, 31), {"L0": 1.0, "L1": 1.0, "L2": 0.0}, []),
    ],
)
def test_a_flag_is_read_once_horizon_and_lag_are_over_and_never_guessed(portfolio, as_of, labels, scored):
    start, end = date(2024, 1, 1), date(2024, 11, 1)
    frame = rows(portfolio, (start, None, 1), (start, end, 1), (start, None, 0), (start, None, None))
    taught = labelled(frame, portfolio, RISKS["credit"], as_of).collect()
    assert dict(taught.select("loan_id", LABEL).iter_rows()) == labels
    assert population(frame, portfolio, as_of).collect()["loan_id"].to_list() == scored
    told = as_known(frame, portfolio, as_of).collect()
    assert set(told.drop_nulls("bad")["loan_id"]) == set(labels)


def test_a_flag_of_more_than_two_values_is_refused(portfolio):
    with pytest.raises(DataError, match=r"column bad.*the label is 2 where a flag"):
        rows(portfolio, (date(2024, 1, 1), None, 2))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('label = "bad"', 'label = "bad"\nevent_date = "e"\nknown_date = "e"', "is a flag without dates"),
        ("pd_lifetime", "pd_12m", "call it pd_lifetime"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(tmp_path, old, new, said):
    project = tiny.make(tmp_path / "project", toml=TOML.replace(old, new), sql=SQL, frame=tiny.book().head(10))
    with pytest.raises(ConfigError, match=said):
        load_portfolio(project.settings.project, NAME)


def test_a_week_and_nights_of_such_a_book(make):
    project = make(toml=TOML, sql=SQL)
    week = project.weekly()
    assert week.promoted
    assert "the evidence is retrospective and proves nothing: bad has no dates" in week.reason
    assert "retrospective evidence proves nothing" in week.page.read_text()
    assert project.count("model") == 1
    notes = project.warehouse.rows("SELECT DISTINCT note FROM metarisk.evidence WHERE protocol = 'walk_forward'")
    assert all("retrospective: bad has no dates" in row["note"] for row in notes)
    night = project.nightly()
    assert night.outcome == "published"
    text = night.page.read_text()
    assert "rows teach and judge nothing" in text
    assert "probability of default by the contract" in text
    scores = project.scores()
    assert scores["segment"].unique().to_list() == ["(all)"]
    due = pl.col("opened_on").dt.offset_by("12mo")
    ends = pl.min_horizontal(
        due,
        pl.when(pl.col("product") == "cash")
        .then(pl.col("opened_on").dt.offset_by("9mo"))
        .otherwise(pl.col("opened_on").dt.offset_by("15mo")),
    )
    expected = tiny.book().filter((pl.col("opened_on") <= FIRST) & (ends > FIRST))["loan_id"].sort()
    excluded = tiny.book().filter(pl.col("amount") < 0)["loan_id"]
    assert scores["entity"].to_list() == [one for one in expected.to_list() if one not in excluded.to_list()]
    explained = explain(project.context(FIRST), scores["entity"][0])
    assert list(explained.milestones) == ["by the contract's end, within 12 months at most"]
    assert project.nightly(SECOND).outcome == "published"
    for view in ("segment_summary", "drift_current", "score_move"):
        found = project.warehouse.rows(f"SELECT DISTINCT segment FROM metarisk.{view} WHERE segment IS NOT NULL")
        assert [row["segment"] for row in found] == ["(all)"], view


def test_evidence_counts_once_nights_have_seen_the_flags(own):
    project = own("duckdb", "published")
    judged = pl.DataFrame({"fold": ["2026-07-31", "2026-08-01"]})
    assert not _retrospective(project.context(CUT_OFF), judged)
    project.edit("portfolios/tiny.toml", 'event_date = "event_date"\nknown_date = "known_date"', 'label = "bad"')
    context = project.context(CUT_OFF)
    assert "2026-07-31, at the first cut, nobody saw (nights since 2026-08-01)" in _retrospective(context, judged)
    assert not _retrospective(context, judged.tail(1))
