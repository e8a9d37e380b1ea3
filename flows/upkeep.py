"""Runs that nobody works on any more, and what is wrong with a Prefect server: found, named, and mended.

Printing is ops.py's.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Crashed, Scheduled

from metarisk.domain import Finding

STUCK = timedelta(minutes=15)
"""Pending for longer, or running without a heartbeat for longer (one is sent every 3 minutes): nobody is there."""
LATE = timedelta(hours=1)  # a worker that is only busy has come by then


def runs(client: SyncPrefectClient, *states: StateType, due_before: datetime | None = None) -> list[FlowRun]:
    """Flow runs in one of `states`, the earliest expected first."""
    return client.read_flow_runs(
        flow_run_filter=filters.FlowRunFilter(
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=list(states))),
            expected_start_time=filters.FlowRunFilterExpectedStartTime.model_validate({"before_": due_before}),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )


def stuck(client: SyncPrefectClient, older_than: timedelta = STUCK) -> list[FlowRun]:
    """Runs that are Pending, or Running without a sign of life, for longer than `older_than`."""
    before = datetime.now(UTC) - older_than
    found = []
    for run in runs(client, StateType.PENDING, StateType.RUNNING):
        if run.state is None or run.state.timestamp > before:
            continue
        if run.state.type == StateType.PENDING or not _heartbeats(client, run, before):
            found.append(run)
    return found


def unstick(client: SyncPrefectClient, older_than: timedelta = STUCK) -> list[tuple[FlowRun, State]]:
    """Give every stuck run a state that frees what it holds: Pending ones are scheduled again, Running ones crashed.

    A crashed night loses nothing: its lock is free as its process is gone, and the next run catches it up.
    """
    changed = []
    for run in stuck(client, older_than):
        if run.state_type == StateType.PENDING:
            state: State = Scheduled(message="Unstuck: it was Pending and no worker had started it")
        else:
            state = Crashed(message="Unstuck: it was Running and sent no heartbeat; its process is gone")
        client.set_flow_run_state(run.id, state, force=True)
        changed.append((run, state))
    return changed


def _heartbeats(client: SyncPrefectClient, run: FlowRun, since: datetime) -> bool:
    page = client.read_events(
        EventFilter(
            occurred=EventOccurredFilter.model_validate({"since": since}),
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        ),
        limit=1,
    )
    return bool(page.events)


def next_runs(client: SyncPrefectClient) -> dict[str, datetime]:
    """When each deployment that has a schedule runs next, by its name."""
    soonest: dict[str, datetime] = {}
    names = {deployment.id: deployment.name for deployment in client.read_deployments()}
    for run in runs(client, StateType.SCHEDULED):
        if run.deployment_id in names and run.expected_start_time is not None:
            soonest.setdefault(names[run.deployment_id], run.expected_start_time)
    return soonest


def findings(client: SyncPrefectClient, pools: Sequence[str], scheduled: Sequence[str]) -> list[Finding]:
    """What a healthy installation has: online workers, deployments with future runs, nothing late, nothing stuck."""
    found = []
    present = {pool.name for pool in client.read_work_pools()}
    for pool in pools:
        if pool not in present:
            found.append(Finding(f"pool {pool}", "does not exist", "run `prefect deploy --all`, or `metarisk up`"))
            continue
        workers = client.read_workers_for_work_pool(pool)
        alive = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
        remedy = "" if alive else f"start a worker: `prefect worker start --pool {pool} --type process --limit 1`"
        found.append(Finding(f"pool {pool}", f"{len(alive)} of {len(workers)} workers online", remedy))
    soonest = next_runs(client)
    for name in scheduled:
        when = f"next run {soonest[name]:%Y-%m-%d %H:%M} UTC" if name in soonest else "no run is scheduled"
        found.append(Finding(f"deployment {name}", when, "" if name in soonest else "run `prefect deploy --all`"))
    found += [
        Finding(f"run {run.name}", f"is late since {run.expected_start_time}", "start a worker of its pool")
        for run in runs(client, StateType.SCHEDULED, due_before=datetime.now(UTC) - LATE)
    ]
    found += [
        Finding(f"run {run.name}", f"is stuck in {run.state_name}", "run `metarisk unstick`") for run in stuck(client)
    ]
    return found
