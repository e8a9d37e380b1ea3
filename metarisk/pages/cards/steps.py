"""Steps: what ran, and how long it took."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from metarisk.pages.page import Card

_TEMPLATE = """\
<section class="card">
  <h2>Steps</h2>
  <table class="steps">
    {% set longest = values | map(attribute="seconds") | max %}
    {% for step in values %}
    <tr class="{{ step.outcome }}"><td>{{ step.name }}{% if step.outcome != "done" %} <span class="tag {{ step.outcome }}">{{ step.outcome }}</span>{% endif %}</td>
      <td class="bar"><i style="width:{{ '%.2f' | format(100 * step.seconds / longest if longest else 0) }}%"></i></td>
      <td class="n">{{ step.seconds | seconds }}</td></tr>
    {% endfor %}
    <tr class="total"><td>total</td><td></td><td class="n">{{ page.seconds | seconds }}</td></tr>
  </table>
</section>
"""


@dataclass(frozen=True)
class Step:
    """One step of the run and the wall time it took."""

    name: str
    seconds: float
    outcome: Literal["done", "failed"] = "done"


def taken(seconds: Mapping[str, float]) -> tuple[Step, ...]:
    """Steps that are done."""
    return tuple(Step(name, value) for name, value in seconds.items())


CARD = Card({"night": (100, 1), "week": (90, 1)}, lambda subject: taken(subject.seconds), _TEMPLATE)
