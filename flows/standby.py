"""A weekly that no worker of its pool starts: after a while it runs on the pool that nights use."""

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import CancelFlowRun, RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.notices import put

DEPLOYMENT = "weekly-default"
_TAKEN = {f"prefect.flow-run.{state}" for state in ("Pending", "Running", "Cancelled")}
_PARAMETERS = {
    **{
        name: {
            "__prefect_kind": "json",
            "value": {"__prefect_kind": "jinja", "template": f"{{{{ flow_run.parameters.get('{name}') | tojson }}}}"},
        }
        for name in ("portfolio", "as_of")
    },
    "instead_of": {"__prefect_kind": "jinja", "template": "{{ flow_run.expected_start_time.isoformat() }}"},
}
"""Those of the run that waited, so that the other one is for its date."""


def set_up(hours: float) -> str:
    """Let a weekly that is late for `hours` be cancelled and run on the other pool, for the date that it was for."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"weekly/{DEPLOYMENT}")
    put(
        Automation(
            name="metarisk: weekly without its pool",
            description=f"A weekly that is late for {hours:g} hours runs on the pool of the nights.",
            trigger=EventTrigger(
                after={"prefect.flow-run.Late"},
                expect=_TAKEN,
                match_related=ResourceSpecification.model_validate(
                    {"prefect.resource.role": "deployment", "prefect.resource.name": "weekly"}
                ),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(hours=hours),
            ),
            actions=[
                RunDeployment(
                    source="selected", deployment_id=deployment.id, parameters=_PARAMETERS, job_variables=None
                ),
                CancelFlowRun(),
            ],
        )
    )
    return f"a weekly that is late for {hours:g} hours runs on the pool default"
