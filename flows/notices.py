"""What people are told of without looking: Prefect automations over the states of runs and the job's own events.

Each notice says portfolio, date, cause, link and remedy. Where they go is `METARISK_NOTIFY`: addresses as Apprise
writes them, with spaces between: for a webhook `json://HOST/PATH`, for e-mail `mailtos://USER:PASSWORD@HOST?to=WHOM`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

from prefect.automations import Automation
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import SecretStr

from flows.blocks import Addresses

NOTIFY = "METARISK_NOTIFY"
"""Environment variable: where notices go; unset, none are sent."""
BLOCK = "metarisk-notices"
_Related = Mapping[str, str | list[str]]
_ONE: _Related = {"prefect.resource.role": "flow", "prefect.resource.name": ["night", "week"]}
_ALL: _Related = {
    "prefect.resource.role": "flow",
    "prefect.resource.name": ["night", "week", "nightly", "weekly", "backfill"],
}
_RUN = """\
Portfolio: {{ flow_run.parameters.portfolio or "all of them" }}
Date: {{ flow_run.parameters.as_of or "the day before " ~ flow_run.expected_start_time.date() }}
"""
_SAID = (
    _RUN
    + """\
{% set said = flow_run.state.message or "the process ended, with no word why" %}
Cause: {{ said | replace(" Remedy: ", "\\nRemedy: ") }}
{% if " Remedy: " not in said %}Remedy: read the log of the run; the next run catches up{% endif %}
Link: {{ flow_run | ui_url }}
"""
)
_LATE = (
    _RUN
    + """\
Cause: no worker has started the run, which was due at {{ flow_run.expected_start_time.strftime("%Y-%m-%d %H:%M") }} UTC
Remedy: start a worker of pool {{ work_pool.name }}; the run is then done for the date that it was scheduled for
Link: {{ flow_run | ui_url }}
"""
)
_DRIFT = """\
Portfolio: {{ event.payload.portfolio }}
Date: {{ event.payload.as_of }}
Cause: {{ event.payload.alerts }}
Remedy: {{ event.payload.remedy }}
Link: {{ event.payload.page }}
"""


@dataclass(frozen=True)
class Notice:
    """One automation: the events that raise it, and what it says."""

    name: str
    events: frozenset[str]
    body: str
    related: _Related = field(default_factory=dict)
    """Which flows the events are of."""
    subject: str = "{{ automation.name }}: {{ flow_run.name }}"


def _state(*names: str) -> frozenset[str]:
    return frozenset(f"prefect.flow-run.{name}" for name in names)


NOTICES = (
    Notice("late run", _state("Late"), _LATE, _ALL),
    Notice("failed run", _state("Failed", "Crashed", "TimedOut"), _SAID, _ALL),
    Notice("source late", _state("SourceLate"), _SAID, _ONE),
    Notice("quality failure", _state("QualityFailed"), _SAID, _ONE),
    Notice(
        "drift alert",
        frozenset({"metarisk.drift.alert"}),
        _DRIFT,
        subject="{{ automation.name }}: {{ event.payload.portfolio }} {{ event.payload.as_of }}",
    ),
)


def set_up(addresses: str) -> list[str]:
    """Create or update block and automations on the server of the settings; the automations' names."""
    block = cast(UUID, Addresses(url=SecretStr(addresses)).save(BLOCK, overwrite=True))
    for notice in NOTICES:
        put(
            Automation(
                name=f"metarisk: {notice.name}",
                description=f"Tells the addresses of the block {BLOCK}.",
                trigger=EventTrigger(
                    expect=set(notice.events),
                    match_related=ResourceSpecification.model_validate(dict(notice.related)),
                    for_each={"prefect.resource.id"},
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[SendNotification(block_document_id=block, subject=notice.subject, body=notice.body)],
            )
        )
    return [notice.name for notice in NOTICES]


def put(automation: Automation) -> None:
    """Create an automation on the server of the settings, or update the one of its name."""
    try:
        automation.id = cast(Automation, Automation.read(name=automation.name)).id  # no coroutine outside of async code
    except ValueError:
        automation.create()
    else:
        automation.update()
