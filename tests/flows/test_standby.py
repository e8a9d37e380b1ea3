"""No worker of pool gpu: the weekly goes to the other pool, for the date that it was for, and nights go on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Scheduled

from flows import server, standby
from metarisk.settings import Settings
from tests.flows.conftest import Prefect, until
from tests.flows.tiny import make_project

pytestmark = pytest.mark.xdist_group("prefect")


@pytest.fixture
def quick(in_process: None, client: SyncPrefectClient) -> Iterator[str]:
    """The automation, which waits for ten seconds: Prefect's least; what it says of itself."""
    yield standby.set_up(10 / 3600)
    for automation in client.read_automations_by_name("metarisk: weekly without its pool"):
        client.delete_automation(automation.id)


def test_a_weekly_waits_for_six_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METARISK_GPU_WAIT_HOURS", raising=False)
    assert Settings().gpu_wait_hours == 6


def test_a_weekly_whose_gpu_worker_has_stopped_is_trained_on_the_other_pool(
    prefect: Prefect, quick: str, client: SyncPrefectClient, tmp_path: Path
) -> None:
    zone, due = ZoneInfo("America/New_York"), datetime.now(UTC) - timedelta(days=3)
    as_of = due.astimezone(zone).date() - timedelta(days=1)
    settings = make_project(tmp_path / "project", as_of, timezone=zone.key)
    with server.worker("gpu", prefect.of(settings)) as worker:
        worker.until(partial(server.online, prefect.api, "gpu"), "heartbeat of the gpu worker")

    deployment = client.read_deployment_by_name("weekly/weekly")
    waiting = client.create_flow_run_from_deployment(
        deployment.id, parameters={"portfolio": "tiny"}, state=Scheduled(scheduled_time=due)
    )

    def instead() -> list[FlowRun]:
        named = DeploymentFilter(name=DeploymentFilterName(any_=[standby.DEPLOYMENT]))
        return [run for run in client.read_flow_runs(deployment_filter=named) if run.parameters["portfolio"] == "tiny"]

    (run,) = until(instead, "a run of the other deployment")
    assert (run.work_pool_name, run.parameters["as_of"]) == ("default", None)
    until(lambda: client.read_flow_run(waiting.id).state_name == "Cancelled", "the end of the run that waited")

    def ended() -> State | None:
        state = client.read_flow_run(run.id).state
        return state if state is not None and state.is_final() else None

    with server.worker("default", prefect.of(settings)):
        state = until(ended, "the end of the run of the other deployment")
    # It is for the date of the run that waited, where the portfolio lives, whatever its own start.
    assert (state.name, f"tiny {as_of}: trained" in str(state.message)) == ("Completed", True), state.message
