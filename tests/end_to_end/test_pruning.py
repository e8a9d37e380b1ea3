"""Old nights leave, whole and logged; what a kept night is read or replayed from stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from metarisk.domain import ConfigError, Derived, ModelError, WarehouseError
from metarisk.pipeline import audit, pruning, reproducing
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, SECOND, Project

THIRD = date(2026, 7, 1)


@pytest.fixture
def nights(published_project: Project) -> Project:
    """Nights of 29 and 30 June (a month end) and 1 July, the last by a newer model."""
    published_project.nightly(SECOND)
    published_project.weekly(SECOND)
    published_project.nightly(THIRD)
    return published_project


def test_old_nights_go_to_the_archive_and_month_ends_stay(nights: Project) -> None:
    context = nights.context(THIRD)
    first, kept = nights.scores(FIRST), (nights.scores(SECOND), nights.scores(THIRD))
    would = pruning.prune(context, 1, dry_run=True)
    assert nights.scores(FIRST).equals(first)
    done = pruning.prune(context, 1)
    assert done == would
    assert (done.cut, done.rows, done.models) == (SECOND, first.height, ())
    assert done.nights == (CUT_OFF, FIRST, SECOND)
    assert nights.scores(FIRST).is_empty()
    assert nights.scores(SECOND).equals(kept[0])
    assert nights.scores(THIRD).equals(kept[1])
    (run,) = done.runs
    stored = pl.read_parquet(pruning.archive(context, run, FIRST) / pruning.ARCHIVED).sort("entity")
    assert stored.select(first.columns).equals(first)
    assert audit.verify(context, every_night=True).faults == ()
    (last,) = nights.warehouse.rows("SELECT run_id FROM metarisk.night WHERE as_of = $as_of", {"as_of": THIRD})
    replayed = reproducing.reproduce(context, last["run_id"])
    assert (replayed.identical, replayed.differences) == (True, ())
    again = pruning.prune(context, 1)
    assert (again.runs, again.nights, again.freed) == ((), (), 0)
    assert nights.nightly(THIRD).outcome == "already_published"
    assert nights.nightly(THIRD + timedelta(days=1)).outcome == "published"


def test_scores_stay_that_a_kept_night_derives_from(nights: Project) -> None:
    context = nights.context(THIRD)
    assert pruning.prune(context, 1, dry_run=True).rows
    horizon, spec = context.portfolio.target.matures_in, context.spec
    for days, kept in ((1, False), (2, True)):
        looking = nights.context(THIRD)
        back = timedelta(days=days) - horizon
        looking.__dict__["spec"] = replace(spec, derive=lambda _view: Derived(), look_back=back)
        assert (pruning.prune(looking, 1, dry_run=True).rows == 0) == kept
        assert pruning.prune(looking, 1, dry_run=True).nights == (CUT_OFF, FIRST, SECOND)


def test_a_kill_between_archive_and_deletion_loses_nothing(nights: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    context = nights.context(THIRD)
    first = nights.scores(FIRST)

    def dies(*_: object) -> None:
        raise WarehouseError("the connection was cut", remedy="run again")

    with monkeypatch.context() as patch:
        patch.setattr(pruning, "append_event", dies)
        with pytest.raises(WarehouseError):
            pruning.prune(context, 1)
    assert nights.scores(FIRST).equals(first)
    assert pruning.prune(context, 1).rows == first.height
    assert audit.verify(context).faults == ()


def test_models_that_nobody_needs_go_here_and_in_the_copy(published: Project, tmp_path: Path) -> None:
    uri = SecretStr((tmp_path / "copy").as_uri())
    published = replace(published, settings=published.settings.model_copy(update={"lake": uri}))
    for week in (7, 14, 21):
        published.weekly(CUT_OFF + timedelta(days=week))
    last = CUT_OFF + timedelta(days=22)
    published.nightly(last)
    registry = published.settings.data_dir / "registry" / NAME
    copy = tmp_path / "copy" / "registry" / NAME
    assert (len(list(registry.iterdir())), len(list(copy.iterdir()))) == (4, 3)  # the first is older than the copy
    done = pruning.prune(published.context(last), 3)
    assert len(done.models) == 2
    left = {folder.name for folder in registry.iterdir() if not folder.name.startswith(".")}
    assert len(left) == 2
    assert {folder.name for folder in copy.iterdir()} == left
    assert published.nightly(last + timedelta(days=1)).outcome == "published"
    # a night of then can be published again as soon as its week has made the model again
    with pytest.raises(ModelError, match=rf"pruned, or lost.*metarisk weekly --portfolio tiny --as-of {CUT_OFF}"):
        published.nightly(FIRST, "restatement", "late file")


def test_nothing_is_kept_of_no_days(published: Project) -> None:
    with pytest.raises(ConfigError, match=r"0 days are to be kept.*keep one day at least"):
        pruning.prune(published.context(FIRST), 0)
