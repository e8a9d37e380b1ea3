"""A portfolio-wide drift alert on a real server: the reporter's event starts the weekly flow of that portfolio."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun

from flows.reporter import PrefectReporter
from metarisk.steps.alerts import PORTFOLIO_WIDE
from tests.flows.conftest import until

pytestmark = pytest.mark.xdist_group("prefect")


@pytest.mark.usefixtures("in_process")
def test_a_portfolio_wide_alert_starts_the_weekly_flow_of_that_portfolio(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    def asked() -> list[FlowRun]:
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["weekly"])),
        )
        return [run for run in runs if run.parameters.get("portfolio") == "drifting_book"]

    assert asked() == []
    reporter = PrefectReporter("drifting_book", tmp_path)
    reporter.event(PORTFOLIO_WIDE, {"portfolio": "drifting_book", "as_of": "2026-06-30", "alerts": "income"})
    (run,) = until(asked, "a run of the weekly flow")
    assert not run.auto_scheduled
    assert run.parameters == {"portfolio": "drifting_book"}
    client.delete_flow_run(run.id)
