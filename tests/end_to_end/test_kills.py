"""SIGKILL before, inside and after each step: the next run leaves the warehouse as if never killed."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from duckdb import connect

from metarisk import jobs, lake
from metarisk.domain import DataError
from metarisk.folders import MANIFEST
from metarisk.jobs import NightResult, Quiet
from tests.conftest import POSTGRESQL
from tests.end_to_end import dying, tiny
from tests.end_to_end.dying import When
from tests.end_to_end.tiny import CUT_OFF, FIRST, Project, differences

PATIENCE_SECONDS = 120
STEPS = ("extract", "adapt", "score", "publish")
TIMES: tuple[When, ...] = ("before", "inside", "after")
DEATHS = [("duckdb", step, when) for step in STEPS for when in TIMES] + [
    pytest.param("postgresql", *death, marks=POSTGRESQL)
    for death in (("extract", "inside"), *(("publish", when) for when in TIMES))
]
"""Where a night dies: on PostgreSQL while it reads or writes there; else it is at work in the lake, as on DuckDB."""


def torn(data: Path) -> list[Path]:
    """Folders of the lake with a manifest that does not hold."""
    return [path.parent for path in (data / "lake").rglob(MANIFEST) if not whole(path.parent)]


def whole(folder: Path) -> bool:
    try:
        lake.verify(folder)
    except DataError:
        return False
    return True


@pytest.mark.parametrize(("kind", "step", "when"), DEATHS)
def test_killed_and_run_again(
    step: str, when: When, project: Project, forked: ForkServerContext, undisturbed: dict[str, list[str]]
) -> None:
    kill(forked, dying.night, project, FIRST, step, when)
    assert project.count("publication") == (step == "publish" and when == "after")
    here, there = Pipe()
    reader = forked.Process(target=dying.read, args=(project, there))
    reader.start()
    assert here.recv() == "begun"
    result = project.nightly(FIRST)
    here.send("stop")
    seen: dying.Seen = here.recv()
    reader.join(PATIENCE_SECONDS)
    assert {count for _, _, count, _ in seen} <= {0, result.rows_scored}
    as_never_killed(project, result, undisturbed)


def test_killed_between_the_commit_and_the_file_for_bi(
    duckdb: Project, forked: ForkServerContext, undisturbed: dict[str, list[str]]
) -> None:
    kill(forked, dying.night, duckdb, FIRST, "publish", "committed")
    assert duckdb.count("score_current") > 0
    assert scores_for_bi(duckdb) == 0
    result = duckdb.nightly(FIRST)
    assert result.outcome == "already_published"
    as_never_killed(duckdb, result, undisturbed)


def test_a_week_killed_while_it_registers_its_model(
    trained_on_duckdb: Project, tmp_path: Path, forked: ForkServerContext
) -> None:
    project = tiny.make(tmp_path / "project")
    kill(forked, dying.week, project, CUT_OFF, "register", "inside")
    assert [project.count(table) for table in ("model", "model_state", "evidence")] == [0, 0, 0]
    project.weekly()
    assert differences(project.contents(), trained_on_duckdb.contents()) == []


def test_a_week_killed_while_it_trains_goes_on_from_its_checkpoint(tmp_path: Path, forked: ForkServerContext) -> None:
    steps = "{ steps = 30, evaluate_every = 10 }"
    pinned = f"candidates = ['reptile']\nlearner = {{ name = 'reptile', options = {{ loop = {steps} }} }}"
    project = tiny.make(tmp_path / "killed", toml=re.sub("candidates = .*", pinned, tiny.TOML))
    kill(forked, dying.week, project, CUT_OFF, "train", "checkpointed")
    untouched = tiny.copy(project, tmp_path / "whole")
    (checkpoint,) = checkpoints(untouched)
    checkpoint.unlink()
    again, whole = Trainings(), Trainings()
    found = jobs.weekly(project.context(CUT_OFF, reporter=again))
    assert found.model_id == jobs.weekly(untouched.context(CUT_OFF, reporter=whole)).model_id
    assert (again.steps, whole.steps) == ([20, 30], [10, 20, 30])
    assert differences(project.contents(), untouched.contents()) == []
    assert [*checkpoints(project), *checkpoints(untouched)] == []


class Trainings(Quiet):
    """Remembers which steps a production training told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Note a step of training."""
        if name == "train":
            self.steps.append(done)


def checkpoints(project: Project) -> Iterator[Path]:
    """Files of trainings that were not ended."""
    return project.settings.data_dir.rglob("*.npz*")


def kill(forked: ForkServerContext, target: Callable[..., None], *arguments: object) -> None:
    """Let a process run until it kills itself."""
    process = forked.Process(target=target, args=arguments)
    process.start()
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    project = arguments[0]
    assert isinstance(project, Project)
    assert torn(project.settings.data_dir) == []


def as_never_killed(project: Project, result: NightResult, undisturbed: dict[str, list[str]]) -> None:
    """The warehouse, the file for BI, the lake and the page are those of a run that nobody killed."""
    assert differences(project.contents(), undisturbed) == []
    if project.warehouse.dialect == "duckdb":
        assert scores_for_bi(project) == result.rows_scored
    assert list((project.settings.data_dir / "lake").rglob(".scratch-*")) == []
    assert result.page is not None
    assert result.page.read_text().rstrip().endswith("</html>")


def scores_for_bi(project: Project) -> int:
    """Scores in the file that BI reads."""
    with connect(project.settings.data_dir / "warehouse-bi.duckdb", read_only=True) as connection:
        found: int = connection.execute("SELECT count(*) FROM metarisk.score_current").fetchall()[0][0]
    return found
