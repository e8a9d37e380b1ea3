"""No worker of pool gpu: the weekly goes to the other pool, for the date that it was for, and nights go on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from flows import server, standby
from flows.weekly import weekly
from metarisk.pipeline import Context
from metarisk.portfolios import load_portfolio
from metarisk.risks import RISKS
from tests.flows.conftest import until

pytestmark = pytest.mark.xdist_group("prefect")


@pytest.fixture
def quick(in_process: None, client: SyncPrefectClient) -> Iterator[str]:
    """The automation, which waits for ten seconds: Prefect's least; what it says of itself."""
    yield standby.set_up(10 / 3600)
    for automation in client.read_automations_by_name("metarisk: weekly without its pool"):
        client.delete_automation(automation.id)


def test_a_weekly_that_no_gpu_worker_starts_runs_on_the_other_pool(
    quick: str, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = client.read_deployment_by_name("weekly/weekly")
    due = datetime.now(UTC) - timedelta(days=3)
    waiting = client.create_flow_run_from_deployment(
        deployment.id, parameters={"portfolio": "tiny"}, state=Scheduled(scheduled_time=due)
    )

    def instead() -> list[FlowRun]:
        return client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[standby.DEPLOYMENT]))
        )

    (run,) = until(instead, "a run of the other deployment")
    assert run.work_pool_name == "default"
    assert (run.parameters["portfolio"], run.parameters["as_of"]) == ("tiny", None)
    until(lambda: client.read_flow_run(waiting.id).state_name == "Cancelled", "the end of the run that waited")
    client.delete_flow_run(run.id)

    # It is for the date of the run that waited, whatever its own start.
    asked: list[date] = []

    def listening(context: Context, _call: object) -> None:
        asked.append(context.job.as_of)
        raise RuntimeError("enough")

    monkeypatch.setattr("flows.weekly.pipeline.weekly", listening)
    monkeypatch.setenv("METARISK_PROJECT", str(server.HOME))
    parameters = run.parameters | {"portfolio": "consumer_loans"}
    weekly(**{**parameters, "instead_of": datetime.fromisoformat(parameters["instead_of"])}, return_state=True)
    zone = load_portfolio(server.HOME, "consumer_loans", risks=RISKS).timezone
    assert asked == [due.astimezone(ZoneInfo(zone)).date() - timedelta(days=1)]
