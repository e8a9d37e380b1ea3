"""A night of many chunks with METARISK_RUNNER=local: its shards are task runs of this process, seen and named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import State, TaskRun
from prefect.client.schemas.sorting import TaskRunSort

from flows import running
from flows.nightly import night
from flows.weekly import week
from metarisk import lake, scoring
from metarisk.domain import DataError
from metarisk.job.published import published as published_night
from tests.end_to_end import tiny
from tests.end_to_end.test_shards import make_small
from tests.end_to_end.tiny import CUT_OFF, FIRST, NAME, Project
from tests.flows.test_nightly_flow import choose

pytestmark = pytest.mark.xdist_group("prefect")
SHARDS = [f"shard {number} of 4 {NAME} {FIRST}" for number in (1, 2, 3, 4)]


@pytest.fixture
def project(tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a champion whose nights have six chunks, of which five are in shards."""
    made = tiny.make(tmp_path / "project", toml=tiny.TOML.replace('"pooled_logistic", "map_head"', '"map_head"'))
    choose(made.settings, monkeypatch)
    make_small(monkeypatch)
    assert week(NAME, CUT_OFF, return_state=True).is_completed()
    return made


def test_shards_are_named_task_runs_with_the_bits_of_one_piece(
    project: Project, tmp_path: Path, client: SyncPrefectClient
) -> None:
    twin = tiny.copy(project, tmp_path / "twin")
    twin.nightly()
    state = night(NAME, FIRST, return_state=True)
    assert state.is_completed(), state.message
    assert shards(client, state) == dict.fromkeys(SHARDS, "Completed")
    assert all(run.total_run_time for run in task_runs(client, state))
    found, expected = (published_night(one.context(FIRST), FIRST).run for one in (project, twin))
    assert found.run_id == expected.run_id
    assert lake.verify(found.folder / "score") == lake.verify(expected.folder / "score")


def test_the_shard_that_fails_is_named_and_the_next_run_goes_on_with_it(
    project: Project, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise DataError("a number is too large", remedy="mend it")

    with monkeypatch.context() as patch:
        third_of(patch, failing)
        state = night(NAME, FIRST, return_state=True)
    assert state.is_failed()
    assert "a number is too large" in str(state.message)
    # The first chunk is none of a shard, and the second is the first shard.
    assert shards(client, state) == {SHARDS[0]: "Completed", SHARDS[1]: "Failed"}
    assert {run.name: run.state_name for run in task_runs(client, state)}[f"score {NAME} {FIRST}"] == "Failed"
    again = night(NAME, FIRST, return_state=True)
    assert again.is_completed(), again.message
    assert [name.partition(" tiny")[0] for name in shards(client, again)] == [f"shard {n} of 3" for n in (1, 2, 3)]


def test_a_shard_that_hangs_ends_with_its_step_and_a_remedy(
    project: Project, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging() -> None:
        monkeypatch.setattr(running, "TIMEOUT_SECONDS", 6 * 3600)
        threading.Event().wait(600)

    third_of(monkeypatch, hanging)
    normal = running.as_task

    def impatient(step: Callable[..., object], *about: object) -> object:
        monkeypatch.setattr(running, "TIMEOUT_SECONDS", 20 if step.__name__ == "score" else 6 * 3600)
        return normal(step, *about)  # type: ignore[arg-type]

    monkeypatch.setattr("flows.nightly.as_task", impatient)
    state = night(NAME, FIRST, return_state=True)
    assert state.is_failed()
    assert "the step score did not end within" in str(state.message)
    states = shards(client, state)
    assert states[SHARDS[0]] == "Completed"
    assert states[SHARDS[1]] not in {"Completed", "Running"}


def third_of(patch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Something happens where the third chunk is scored."""
    real, calls = scoring.score, []

    def score(*inputs: object, **options: object) -> Iterator[object]:
        calls.append(1)
        if len(calls) == 3:
            happens()
        return real(*inputs, **options)  # type: ignore[arg-type]

    patch.setattr(scoring, "score", score)


def task_runs(client: SyncPrefectClient, state: State) -> list[TaskRun]:
    """Task runs of the flow run that ended in a state, in their order."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    of_run = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run_id]))
    return client.read_task_runs(task_run_filter=of_run, sort=TaskRunSort.EXPECTED_START_TIME_ASC)


def shards(client: SyncPrefectClient, state: State) -> dict[str, str | None]:
    """States of the shards of a night, by their names without the rows."""
    runs = [run for run in task_runs(client, state) if run.name.startswith("shard ")]
    assert all(", rows " in run.name for run in runs)
    return {run.name.partition(", rows ")[0]: run.state_name for run in runs}
