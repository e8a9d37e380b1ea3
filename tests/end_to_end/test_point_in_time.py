"""What is dated or learned after as_of changes nothing, nor does the order of rows, nor the kind of warehouse."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metarisk import registry
from tests.end_to_end import tiny
from tests.end_to_end.tiny import CUT_OFF, EVERYTHING, NAME, Project, differences

AS_OF = CUT_OFF
OUTCOMES = ("event_date", "known_date", "exit_date")


def altered(frame: pl.DataFrame, as_of: date, seed: int) -> pl.DataFrame:
    """The same past with another future.

    Loans opened later are other loans; of the others, what happened or became known later happens otherwise, or never,
    and loans of which nothing was known get an event that becomes known later.
    """
    rng = np.random.default_rng(seed)
    past = frame.filter(pl.col("opened_on") <= as_of)
    later = pl.Series([as_of + timedelta(days=int(days)) for days in rng.integers(1, 300, past.height)])
    early = pl.Series([as_of - timedelta(days=int(days)) for days in rng.integers(0, 300, past.height)])
    fate = pl.Series(rng.integers(0, 3, past.height))
    early = pl.max_horizontal(early, "opened_on")
    told = (pl.col("known_date") <= as_of).fill_null(False)
    left = (pl.col("exit_date") <= as_of).fill_null(False)
    past = past.with_columns(
        event_date=pl.when(told).then("event_date").when(fate == 1).then(later).when(fate == 2).then(early),
        known_date=pl.when(told).then("known_date").when(fate > 0).then(later),
        exit_date=pl.when(left).then("exit_date").when(fate == 1).then(later),
    )
    future = frame.filter(pl.col("opened_on") <= as_of).head(150)
    future = future.with_columns(
        loan_id="F" + pl.col("loan_id"),
        opened_on=later.head(future.height),
        region=pl.lit("atlantis"),
        amount=pl.lit(1e9),
        **{name: later.head(future.height) for name in OUTCOMES},
    )
    return pl.concat([past, future]).sample(fraction=1.0, shuffle=True, seed=seed)


def learned(project: Project, model_id: str) -> dict[str, bytes]:
    """Everything that a model learned: its files."""
    return registry.load(project.settings.data_dir / "registry", NAME, model_id)


def week_and_night(project: Project) -> tuple[dict[str, bytes], pl.DataFrame, list[str]]:
    """Files of the champion, scores, and evidence without the model's id."""
    model_id = project.weekly(AS_OF).model_id
    project.nightly(AS_OF)
    evidence = [row.replace(model_id, "MODEL") for row in project.contents()["evidence"]]
    return learned(project, model_id), project.scores(AS_OF), evidence


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], pl.DataFrame, list[str]]:
    """The week and the night of a careless author on the book as it is, on DuckDB."""
    return week_and_night(tiny.make(tmp_path_factory.mktemp("reference") / "project", sql=EVERYTHING))


def test_another_future_changes_no_bit(
    make: Callable[..., Project], reference: tuple[dict[str, bytes], pl.DataFrame, list[str]]
) -> None:
    files, scores, evidence = week_and_night(make(frame=altered(tiny.book(), AS_OF, 1), sql=EVERYTHING))
    assert files == reference[0]
    assert_frame_equal(scores, reference[1], check_exact=True)
    assert evidence == reference[2]


def test_the_future_that_was_altered_does_matter_later(tmp_path: Path, duckdb: Project) -> None:
    """The alteration is no empty one: it reaches scores as soon as it is the past."""
    later = AS_OF + timedelta(days=33)
    duckdb.nightly(later)
    before = duckdb.scores(later)
    other = tiny.copy(duckdb, tmp_path / "other")
    other.load(altered(tiny.book(), AS_OF, 1))
    other.edit("portfolios/tiny.toml", "[validation]", "[thresholds]\nmax_unseen_share = 1.0\n\n[validation]")
    other.nightly(later, "restatement", "another future")
    assert not before.equals(other.scores(later))


def test_ids_and_contents_are_those_of_the_other_warehouse_and_of_another_order(
    project: Project, undisturbed: dict[str, list[str]]
) -> None:
    """Both warehouses hold the same ids and rows, whatever became known later and in whatever order."""
    project.load(altered(tiny.book(), tiny.FIRST, 2))
    project.nightly(tiny.FIRST)
    assert differences(project.contents(), undisturbed) == []
