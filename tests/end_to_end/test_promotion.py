"""Who becomes champion: proofs week by week, and the word of a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from metarisk import evidence as evidences
from metarisk import jobs
from metarisk.domain import ConfigError
from metarisk.evidence import decision
from metarisk.metrics import Interval
from metarisk.upkeep import models as promotion
from tests.end_to_end import tiny
from tests.end_to_end.conftest import ON_DUCKDB
from tests.end_to_end.tiny import CUT_OFF, NAME, Project

REASONS = "SELECT DISTINCT reason FROM metarisk.model_state WHERE model_id = $model_id"
STATES = "SELECT state FROM metarisk.model_state WHERE model_id = $model_id ORDER BY seq"


def states(project: Project, model_id: str) -> list[str]:
    return [row["state"] for row in project.warehouse.rows(STATES, {"model_id": model_id})]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline is ahead of every champion for certain: what is under test is what follows from that."""
    gain = Interval(-0.01, -0.02, -0.005)
    monkeypatch.setattr(decision, "against", lambda *_: gain)
    monkeypatch.setattr(decision, "MIN_JUDGED_EVENTS", 1)
    sort = evidences.summarise

    def first(*inputs, **options):
        found = sort(*inputs, **options)
        lines = sorted(found.candidates, key=lambda line: line.name != "pooled_logistic")
        return replace(found, candidates=tuple(lines))

    monkeypatch.setattr(evidences, "summarise", first)


def test_a_challenger_waits_for_its_second_week_and_then_for_a_person(project: Project, ahead: None) -> None:
    (old,) = (row["model_id"] for row in project.warehouse.rows("SELECT model_id FROM metarisk.model"))
    week = project.weekly(CUT_OFF + timedelta(days=7))
    assert (week.recipe, week.promoted) == ("hazard_head", True)
    assert "in 1 of the 2 weeks" in week.reason
    waiting = project.weekly(CUT_OFF + timedelta(days=14))
    assert (waiting.recipe, waiting.promoted) == ("pooled_logistic", False)
    assert "a person must approve" in waiting.reason
    assert waiting.page is not None
    assert f"metarisk models approve -p tiny --model {waiting.model_id}" in waiting.page.read_text()
    assert states(project, waiting.model_id) == ["candidate"]

    night = CUT_OFF + timedelta(days=15)
    context = project.context(night)
    assert jobs.approve(context, waiting.model_id, "A. Validator", "back-test read") == "pooled_logistic"
    assert states(project, waiting.model_id) == ["candidate", "approved", "champion"]
    assert states(project, week.model_id)[-1] == "retired"
    assert states(project, old)[-1] == "retired"
    project.nightly(night)
    (run,) = project.warehouse.rows("SELECT model_id FROM metarisk.night WHERE as_of = $as_of", {"as_of": night})
    assert run["model_id"] == waiting.model_id

    for model, said in ((waiting.model_id, "champion and does not wait"), ("nobody", "there is no model nobody")):
        with pytest.raises(ConfigError, match=said):
            jobs.approve(context, model, "A. Validator", "again")


@ON_DUCKDB
def test_a_week_that_a_backfill_trained_proves_nothing_later_unless_the_source_is_bitemporal(
    project: Project, trained_on_duckdb: Project, tmp_path: Path, ahead: None
) -> None:
    saturday, night, later = (CUT_OFF + timedelta(days=days) for days in (6, 8, 14))
    (trained,) = jobs.backfill(project.context(night), night).weeks
    assert trained.as_of == saturday
    (reason,) = project.warehouse.rows(REASONS, {"model_id": trained.model_id})
    assert "which proves nothing: a backfill" in reason["reason"]
    # What a model is does not depend on who asked for it.
    twin = tiny.copy(trained_on_duckdb, tmp_path / "twin")
    assert twin.weekly(saturday).model_id == trained.model_id
    for place, mode in ((twin, "weekly"), (project, "backfill")):
        assert promotion.describe(place.context(later), trained.model_id)["model"]["mode"] == mode
    cards = project.settings.data_dir / "reports" / NAME
    assert "backfill: trained after its time" in (cards / f"model-{trained.model_id}.md").read_text()
    week = project.weekly(later)
    assert "in 1 of the 2 weeks" in week.reason
    assert "| mode | weekly |" in (cards / f"model-{week.model_id}.md").read_text()
    project.edit("portfolios/tiny.toml", 'extract = "tiny.sql"', 'extract = "tiny.sql"\nbitemporal = true')
    assert "a person must approve" in project.weekly(later).reason
