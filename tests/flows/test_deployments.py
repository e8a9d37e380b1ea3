"""The deployments of prefect.yaml on a real server: crons are scheduled, a worker runs them, stuck runs are freed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import AwaitingRetry, Failed, Pending, Running, Scheduled
from typer.testing import CliRunner

from flows import ops, server, upkeep
from metarisk import jobs
from metarisk.domain import Job
from metarisk.jobs import Context, Quiet
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.flows.conftest import Prefect, until
from tests.flows.tiny import make_project

pytestmark = pytest.mark.xdist_group("prefect")
NIGHTS = 3
SECRET = "planted-in-a-worker"


def crons(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    """Future runs that the scheduler made for a deployment, soonest first."""
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )


def soonest(client: SyncPrefectClient, deployment: str, count: int) -> list[FlowRun]:
    """The first `count` of them, once the scheduler has made so many: it makes at least three a deployment."""

    def enough() -> list[FlowRun]:
        runs = crons(client, deployment)
        return runs[:count] if len(runs) >= count else []

    return until(enough, f"{count} runs of {deployment}")


def local_day_before(run: FlowRun) -> date:
    """The date a scheduled run is for, where the tiny portfolio lives (UTC)."""
    assert run.expected_start_time is not None
    return run.expected_start_time.astimezone(UTC).date() - timedelta(days=1)


@pytest.mark.parametrize("deployment", server.SCHEDULED)
def test_a_deployed_cron_has_future_runs(deployment: str, client: SyncPrefectClient) -> None:
    # Other tests may have asked for runs of their own on the same server.
    soonest(client, deployment, 1)
    now = datetime.now(UTC)
    assert any(
        run.expected_start_time is not None and run.expected_start_time > now for run in crons(client, deployment)
    )


@pytest.fixture(scope="module")
def three_nights(
    prefect: Prefect, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, list[FlowRun], list[FlowRun]]]:
    """Project and runs before and after: no worker was there for three starts of the last days, then one came.

    Time is not moved: the runs are made as the scheduler made them then, for starts that are past.
    """
    with SyncPrefectClient(prefect.api) as client:
        nightly, now = client.read_deployment_by_name("nightly/nightly"), datetime.now(UTC)
        starts = [Scheduled(scheduled_time=now - timedelta(days=days)) for days in range(NIGHTS, 0, -1)]
        before = [client.create_flow_run_from_deployment(nightly.id, state=start) for start in starts]
        last = local_day_before(before[-1])
        settings = make_project(tmp_path_factory.mktemp("backlog") / "project", last + timedelta(days=1))
        first = local_day_before(before[0])
        jobs.weekly(Context(Job("tiny", first - timedelta(days=2)), settings, Quiet()))
        jobs.nightly(Context(Job("tiny", first - timedelta(days=1)), settings, Quiet()))

        def ended() -> list[FlowRun]:
            after = [client.read_flow_run(run.id) for run in before]
            return after if all(run.state is not None and run.state.is_final() for run in after) else []

        planted = {"METARISK_NOTIFY": f"json://ops:{SECRET}@127.0.0.1:1", "AWS_SECRET_ACCESS_KEY": SECRET}
        with server.worker("default", prefect.of(settings) | planted):
            after = until(ended, "the end of three runs")
    yield settings, before, after


def test_a_worker_runs_what_was_scheduled(
    three_nights: tuple[Settings, list[FlowRun], list[FlowRun]],
) -> None:
    _, _, after = three_nights
    assert [run.state_name for run in after] == ["Completed"] * NIGHTS


def test_after_three_nights_without_a_worker_the_nights_are_published_oldest_first(
    three_nights: tuple[Settings, list[FlowRun], list[FlowRun]],
) -> None:
    settings, before, _ = three_nights
    warehouse = open_warehouse(settings.warehouse.get_secret_value(), settings.data_dir, threads=1, memory_mb=256)
    rows = warehouse.rows("SELECT as_of FROM metarisk.publication ORDER BY published_at")
    nights = [local_day_before(run) for run in before]
    assert [row["as_of"] for row in rows] == [nights[0] - timedelta(days=1), *nights]


def test_a_late_run_is_for_the_night_it_was_scheduled_for(
    three_nights: tuple[Settings, list[FlowRun], list[FlowRun]],
) -> None:
    _, before, after = three_nights
    assert [run.expected_start_time for run in after] == [run.expected_start_time for run in before]
    for run in after:
        assert run.state is not None
        assert f"tiny {local_day_before(run)}: published" in str(run.state.message)


def test_a_secret_of_a_worker_is_written_nowhere(
    three_nights: tuple[Settings, list[FlowRun], list[FlowRun]], prefect: Prefect
) -> None:
    settings, _, _ = three_nights
    assert "tiny" in (prefect.home / "worker-default.log").read_text()
    for place in (prefect.home, settings.data_dir):
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_trying_again_keeps_the_scheduled_start(client: SyncPrefectClient) -> None:
    run = soonest(client, "weekly", 2)[1]
    for state in (
        Pending(),
        Running(),
        Failed(),
        AwaitingRetry(scheduled_time=datetime.now(UTC)),
        Pending(),
        Running(),
    ):
        client.set_flow_run_state(run.id, state, force=True)
    again = client.read_flow_run(run.id)
    assert again.expected_start_time == run.expected_start_time
    client.set_flow_run_state(run.id, Failed(), force=True)


def test_the_doctor_has_a_remedy_for_all_that_is_wrong(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = client.read_deployment_by_name("weekly/weekly")
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=2))
    late, waiting = (client.create_flow_run_from_deployment(deployment.id, state=due, name=n) for n in ("old", "held"))
    client.set_flow_run_state(waiting.id, Pending(), force=True)
    monkeypatch.setattr(upkeep, "stuck", partial(upkeep.stuck, older_than=timedelta(0)))
    client.create_work_pool(WorkPoolCreate(name="idle", type="process"))
    try:
        found = upkeep.findings(client, ("idle", "nowhere"), ("nightly", "never"))
    finally:
        client.delete_work_pool("idle")
        client.delete_flow_run(late.id)
        client.delete_flow_run(waiting.id)
    told = {finding.subject: finding for finding in found}
    for subject, what, remedy in (
        ("pool idle", "0 of 0 workers online", "prefect worker start --pool idle"),
        ("pool nowhere", "does not exist", "metarisk up"),
        ("deployment never", "no run is scheduled", "prefect deploy --all"),
        ("run old", "is late since", "start a worker of its pool"),
        ("run held", "is stuck in Pending", "metarisk unstick"),
    ):
        assert what in told[subject].what
        assert remedy in told[subject].remedy


def test_the_next_starts_are_those_of_the_server(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", str(client.api_url))
    for name in ("nightly", "weekly"):
        soonest(client, name, 1)
    told = CliRunner().invoke(ops.app, ["next"])
    assert told.exit_code == 0, told.exception
    starts = json.loads(told.output)
    for name in ("nightly", "weekly"):
        assert starts[name] == f"{upkeep.next_runs(client)[name]:%Y-%m-%d %H:%M} UTC"


@pytest.mark.parametrize(("stuck", "freed"), [(Pending, StateType.SCHEDULED), (Running, StateType.CRASHED)])
def test_unstick_frees_a_run_that_nobody_works_on(
    stuck: type, freed: StateType, prefect: Prefect, client: SyncPrefectClient
) -> None:
    run = soonest(client, "weekly", 3)[2]
    client.set_flow_run_state(run.id, stuck(), force=True)
    assert run.id not in {other.id for other in upkeep.stuck(client)}
    assert run.id in {changed.id for changed, _ in upkeep.unstick(client, timedelta(0))}
    assert client.read_flow_run(run.id).state_type == freed
