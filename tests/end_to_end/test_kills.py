"""SIGKILL before, inside and after each step: the next run leaves the warehouse as if never killed."""

from __future__ import annotations

import signal
from multiprocessing import Pipe
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from metarisk import lake
from metarisk.domain import DataError
from metarisk.lake.folders import MANIFEST
from tests.end_to_end import dying
from tests.end_to_end.dying import When
from tests.end_to_end.tiny import FIRST, Project, differences

PATIENCE_SECONDS = 120
STEPS = ("extract", "adapt", "score", "publish")
TIMES: tuple[When, ...] = ("before", "inside", "after")


def torn(data: Path) -> list[Path]:
    """Folders of the lake with a manifest that does not hold."""
    return [path.parent for path in (data / "lake").rglob(MANIFEST) if not whole(path.parent)]


def whole(folder: Path) -> bool:
    try:
        lake.verify(folder)
    except DataError:
        return False
    return True


@pytest.mark.parametrize("when", TIMES)
@pytest.mark.parametrize("step", STEPS)
def test_killed_and_run_again(
    step: str, when: When, project: Project, forked: ForkServerContext, undisturbed: dict[str, list[str]]
) -> None:
    killed = forked.Process(target=dying.night, args=(project, FIRST, step, when))
    killed.start()
    killed.join(PATIENCE_SECONDS)
    assert killed.exitcode == -signal.SIGKILL
    assert project.count("publication") == (step == "publish" and when == "after")
    assert torn(project.settings.data_dir) == []
    here, there = Pipe()
    reader = forked.Process(target=dying.read, args=(project, FIRST, there))
    reader.start()
    assert here.recv() == "begun"
    result = project.nightly(FIRST)
    here.send("stop")
    seen: dying.Seen = here.recv()
    reader.join(PATIENCE_SECONDS)
    assert differences(project.contents(), undisturbed) == []
    assert list((project.settings.data_dir / "lake").rglob(".scratch-*")) == []
    assert {count for _, count in seen} <= {0, result.rows_scored}
    assert {place for place, count in seen if count}
