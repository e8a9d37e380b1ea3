"""Open alerts: each is told once and stays until it has been ok for some nights."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight
from metarisk.record import drift as records
from metarisk.steps.alerts import what

_TEMPLATE = """\
<section class="card">
  <h2>Open alerts</h2>
  {% if alerts %}
  <p class="soft">Each is told once and stays until it has been ok for some nights: <code>metarisk drift ack</code>, <code>metarisk drift mute</code>.</p>
  <div class="scroll"><table>
    <thead><tr><th>Alert</th><th>Segment</th><th>What</th><th>Since</th><th>State</th><th>Found</th></tr></thead>
    <tbody>
    {% for alert in alerts %}
    <tr><td class="nowrap"><code>{{ alert.alert_id }}</code></td><td><bdi>{{ (alert.segment or "whole portfolio") | name(60) }}</bdi></td>
      <td><span class="tag {{ alert.status }}">{{ alert.status }}</span> <bdi>{{ what(alert) | name(60) }}</bdi></td><td class="nowrap">{{ alert.opened_as_of }}{% if alert.opened_as_of == page.as_of %} <span class="tag">new</span>{% endif %}</td>
      <td class="nowrap">{% if alert.muted_until and alert.muted_until >= page.as_of %}muted until {{ alert.muted_until }}{% elif alert.acknowledged_by %}acknowledged by <bdi>{{ alert.acknowledged_by | name(30) }}</bdi>{% else %}told by {{ alert.told }}{% endif %}</td>
      <td class="soft"><bdi>{{ (alert.detail or "") | name(120) }}</bdi></td></tr>
    {% endfor %}
    </tbody>
  </table></div>
  {% else %}<p class="soft">Nothing is open.</p>{% endif %}
</section>
"""


def _gather(night: PublishedNight) -> list[Mapping[str, Any]]:
    """Rows of the view `drift_alert_open` that were open by the night, newest first."""
    known = records.open_alerts(night.context.warehouse, night.context.job.portfolio)
    rows = sorted(known, key=itemgetter("opened_as_of"), reverse=True)
    return [row for row in rows if row["opened_as_of"] <= night.context.job.as_of]


CARD = Card({"drift": (10, 0)}, _gather, _TEMPLATE, lambda alerts, page: {"alerts": alerts, "what": what}, always=True)
