"""Features, segments and horizons that are added, renamed or removed stop no night for long, and are said."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from metarisk import jobs
from metarisk.answers import why
from metarisk.cli import app
from metarisk.domain import ModelError
from metarisk.job.champion import champion_for
from metarisk.job.inputs import INPUTS, inputs_of, inputs_of_model, misfits
from metarisk.job.published import published as night_of
from metarisk.job.unlike import unlike
from metarisk.moves import FACTORS
from tests.end_to_end.test_refusals import text_of
from tests.end_to_end.tiny import FIRST, SECOND, Listener, Project

TOML, SQL = "portfolios/tiny.toml", "sql/extracts/tiny.sql"
THIRD = SECOND + timedelta(days=1)
Edits = tuple[tuple[str, str, str], ...]
ADDED: Edits = (
    (TOML, "[features.income]", '[features.wealth]\nkind = "numeric"\n\n[features.income]'),
    (SQL, "amount,", "income / 10 AS wealth, amount,"),
)
REMOVED: Edits = ((TOML, '[features.channel]\nkind = "categorical"\n\n', ""), (SQL, "channel, ", ""))
RENAMED: Edits = ((TOML, "[features.channel]", "[features.way]"), (SQL, "channel, ", "channel AS way, "))
KIND: Edits = (
    (TOML, '[features.income]\nkind = "numeric"', '[features.income]\nkind = "categorical"'),
    (SQL, "income,", "CAST(income AS TEXT) AS income,"),
)
SEGMENT_ADDED: Edits = (
    (TOML, '["region", "product"]', '["region", "product", "size"]'),
    (SQL, "SELECT loan_id,", "SELECT CASE WHEN income > 20000 THEN 'a' ELSE 'b' END AS size, loan_id,"),
)
SEGMENT_REMOVED: Edits = ((TOML, '["region", "product"]', '["region"]'),)
SEGMENT_RENAMED: Edits = ((TOML, '["region", "product"]', '["area", "product"]'), (SQL, "region,", "region AS area,"))
HORIZON: Edits = ((TOML, "horizon_months = 12", "horizon_months = 6"),)
TARGET: Edits = ((TOML, "pd_12m", "pd_1y"),)
CHANGES: dict[str, tuple[Edits, list[str]]] = {
    "a feature added": (ADDED, []),
    "a feature removed": (REMOVED, ["the feature channel was removed"]),
    "a feature renamed": (RENAMED, ["the feature channel was removed"]),
    "a feature of another kind": (KIND, ["the feature income is categorical, before numeric"]),
    "a segment added": (SEGMENT_ADDED, ["the segment columns are region, product, size, before region, product"]),
    "a segment removed": (SEGMENT_REMOVED, ["the segment columns are region, before region, product"]),
    "a segment renamed": (SEGMENT_RENAMED, ["the segment columns are area, product, before region, product"]),
    "another horizon": (HORIZON, ["the horizon is 6 months, before 12 months"]),
    "a target renamed": (TARGET, []),
}


def edited(project: Project, *edits: Edits) -> None:
    for edit in edits:
        for change in edit:
            project.edit(*change)


@pytest.mark.parametrize("change", CHANGES)
def test_the_champion_fits_or_says_what_does_not(change: str, published: Project) -> None:
    edits, words = CHANGES[change]
    edited(published, edits)
    context = published.context(SECOND)
    champion = champion_for(context)
    assert champion is not None
    assert misfits(context, champion.model_id) == words


def test_a_model_of_before_inputs_were_kept_shows_its_features_and_how_many_segments(
    published: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(published, REMOVED, SEGMENT_REMOVED)
    context = published.context(SECOND)
    champion = champion_for(context)
    assert champion is not None
    assert inputs_of_model(context, champion.model_id) != inputs_of(context.portfolio)
    monkeypatch.setattr("metarisk.job.inputs.INPUTS", "not kept")
    assert misfits(context, champion.model_id) == [
        "the feature channel was removed",
        "the segment columns are region, before 2 of them",
    ]


def night(project: Project, as_of: object) -> list[str]:
    """Run a night; its warnings of what cannot be told."""
    listener = Listener()
    assert jobs.nightly(project.context(as_of, reporter=listener)).outcome == "published"  # type: ignore[arg-type]
    return [line for line in listener.warnings if "cannot be split" in line or "does not read" in line]


def test_what_is_added_is_not_read_until_the_next_week_and_all_is_told(published_project: Project) -> None:
    edited(published_project, ADDED, TARGET)
    (said,) = night(published_project, SECOND)
    assert said.endswith("the model does not read wealth until the next weekly")
    rows = published_project.warehouse.rows("SELECT * FROM metarisk.score_move")
    assert rows
    assert {row["from_inputs"] for row in rows if row["from_leavers"] is not None} == {0.0}
    assert all(
        row[f"from_{factor}"] is not None for row in rows for factor in FACTORS if row["from_leavers"] is not None
    )


def test_features_and_segments_change(published_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project = published_project
    edited(project, ADDED, REMOVED, SEGMENT_ADDED)
    with pytest.raises(
        ModelError, match=r"column channel.*the feature channel was removed.*Remedy: run `metarisk weekly"
    ):
        project.nightly(SECOND)
    project.weekly(SECOND)
    (said,) = night(project, THIRD)
    words = (
        "the segment columns are region, product, size, before region, product; the feature channel was removed; the "
        "feature wealth was added"
    )
    assert set(words.split("; ")) == set(said.partition("cannot be split: ")[2].split("; "))
    rows = project.warehouse.rows("SELECT * FROM metarisk.score_move ORDER BY segment NULLS FIRST")
    whole = rows[0]
    assert whole["segment"] is None
    assert whole["value_after"] - whole["value_before"] == pytest.approx(
        whole["from_leavers"] + whole["from_entrants"] + whole["from_inputs"], abs=1e-12
    )
    # By hand, of the scores that readers saw.
    before, after = (project.scores(day).select("entity", "score") for day in (FIRST, THIRD))
    stayed = before.join(after, on="entity", suffix="_after")
    moved = stayed["score_after"].mean() - stayed["score"].mean()  # type: ignore[operator]
    assert whole["from_inputs"] == pytest.approx(moved, abs=1e-12)
    assert (whole["rows_left"], whole["rows_entered"]) == (before.height - stayed.height, after.height - stayed.height)
    assert {row["from_model"] for row in rows} == {None}
    (page,) = project.settings.data_dir.glob(f"reports/*/{THIRD}-*.html")
    assert "other inputs: cannot be split" in text_of(page) or "other inputs: cannot be split" in page.read_text()
    told_by_cli(project, stayed, monkeypatch)


def told_by_cli(project: Project, stayed: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """`metarisk why` says across the change what it cannot split, for the book and for one entity."""
    monkeypatch.setenv("METARISK_PROJECT", str(project.settings.project))
    monkeypatch.setenv("METARISK_WAREHOUSE", project.settings.warehouse.get_secret_value())
    entity = stayed["entity"][0]
    for more in ([], ["--entity", entity]):
        told = CliRunner().invoke(app, ["why", "-p", "tiny", "--from", str(FIRST), "--to", str(THIRD), *more])
        assert told.exit_code == 0, told.output
        assert "cannot be split: " in told.output
        assert "the feature wealth was added" in " ".join(told.output.split())
    (move,) = why.why_entity(project.context(THIRD), FIRST, entity)
    row = stayed.row(0, named=True)
    assert move.parts == {**dict.fromkeys(FACTORS), "inputs": row["score_after"] - row["score"]}


def test_a_run_of_before_inputs_were_kept_says_which_column_it_lacks(published: Project) -> None:
    (folder,) = (Path(published.settings.data_dir) / "lake" / "tiny" / str(FIRST)).glob("runs/*/adapt")
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    assert f'"{INPUTS}"' in text
    manifest.write_text(text.replace(f'"{INPUTS}"', '"of_before"'))
    edited(
        published,
        ((TOML, 'exit_date = "exit_date"', 'exit_date = "exit_date"\nlgd = "lgd"\nead = "ead"'),
         (SQL, "SELECT loan_id,", "SELECT 0.45 AS lgd, amount AS ead, loan_id,")),
    )  # fmt: skip
    (said,) = night(published, SECOND)
    assert said.endswith(f"the night of {FIRST} has no column lgd, ead")
    assert unlike(night_of(published.context(SECOND), FIRST), night_of(published.context(SECOND), SECOND))
    measures = published.warehouse.rows("SELECT DISTINCT measure FROM metarisk.score_move")
    assert measures == [{"measure": "mean_score"}]
