"""Scoring in shards on a real local Ray cluster of two workers: the same bits as in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import State

from flows.nightly import night
from flows.spreading import spread_of
from metarisk import lake
from metarisk.answers import replay as reproducing
from metarisk.domain import ConfigError
from metarisk.job.published import published as published_night
from metarisk.settings import Settings
from tests.end_to_end import tiny
from tests.end_to_end.test_shards import make_small
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, Project
from tests.flows.test_nightly_flow import choose

pytest.importorskip("prefect_ray", reason="the extra [ray] is not installed")
pytestmark = [
    pytest.mark.xdist_group("prefect"),
    # Whether Ray closes every pipe of its own processes in time is not what is tested here.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def project(tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a champion whose nights have six chunks, of which five go to workers."""
    make_small(monkeypatch)
    made = tiny.make(tmp_path / "project", toml=tiny.TOML.replace('"pooled_logistic", "map_head"', '"map_head"'))
    made.weekly(CUT_OFF)
    choose(made.settings, monkeypatch)
    monkeypatch.setenv("METARISK_THREADS", "2")
    return made


def test_a_night_on_ray_has_the_bits_of_one_in_process(
    project: Project, tmp_path: Path, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tiny.copy(project, tmp_path / "twin")
    alone = twin.nightly()
    monkeypatch.setenv("METARISK_RUNNER", "ray")
    state = night(NAME, FIRST, return_state=True)
    assert state.is_completed(), state.message
    names = shards(client, state)
    assert [name.partition(", rows ")[0] for name in names] == [f"shard {n} of 4 {NAME} {FIRST}" for n in (1, 2, 3, 4)]
    found, expected = (published_night(one.context(FIRST), FIRST).run for one in (project, twin))
    assert found.run_id == expected.run_id == alone.run_id
    assert lake.verify(found.folder / "score") == lake.verify(expected.folder / "score")
    assert project.scores().equals(twin.scores())
    again = reproducing.reproduce(project.context(FIRST), found.run_id)
    assert again.identical, again.differences


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"METARISK_RUNNER is ray, .* Remedy: pip install 'metarisk\[ray\]'"):
        spread_of(Settings(runner="ray"))
    assert spread_of(Settings(runner="local")).here


def shards(client: SyncPrefectClient, state: State) -> list[str]:
    """Names of the shards that were task runs of a flow run."""
    of_run = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    return sorted(run.name for run in client.read_task_runs(task_run_filter=of_run) if run.name.startswith("shard "))
