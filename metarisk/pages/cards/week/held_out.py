"""Segments that no model has seen: losses on those that were held out of training, by the events they showed."""

from dataclasses import dataclass
from typing import Any

from metarisk.metrics import Interval
from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedWeek

_TEMPLATE = """\
<section class="card"><h2>Segments that no model has seen</h2>
  <p class="soft">Segments held out of training that showed k events each; judged on what they opened later. Difference of the chosen recipe's loss to each baseline's, 10<sup>−4</sup>, with its 95 % interval.</p>
  <div class="scroll"><table>
    <thead><tr><th class="n">k</th><th class="n">Rows</th><th class="n">Events</th><th class="n">Loss</th>{% for name, difference in values[0].others %}<th class="n">to {{ name }}</th>{% endfor %}</tr></thead>
    <tbody>{% for line in values %}<tr><td class="n">{{ line.events }}</td><td class="n">{{ line.rows | count }}</td><td class="n">{{ line.judged_events | count }}</td><td class="n">{{ line.loss | number(5) }}</td>{% for name, difference in line.others %}<td class="n">{{ (difference.mean * 1e4) | signed }} <span class="soft">{{ (difference.low * 1e4) | signed }} to {{ (difference.high * 1e4) | signed }}</span></td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div></section>
"""


@dataclass(frozen=True)
class HeldOutLine:
    """Segments that were held out of training and showed `events` events each: losses of the recipe and of others."""

    events: int
    rows: int
    judged_events: int
    loss: float
    others: tuple[tuple[str, Interval], ...]
    """Name of each baseline, and what the recipe's loss differs by."""


def _gather(week: PublishedWeek) -> list[HeldOutLine]:
    by_slice: dict[str, list[dict[str, Any]]] = {}
    for row in week.judged.held_out:
        by_slice.setdefault(str(row["slice"]), []).append(row)
    return [_line(int(name.removeprefix("k=")), rows, week.judged.evidence.loss) for name, rows in by_slice.items()]


def _line(events: int, rows: list[dict[str, Any]], loss: str) -> HeldOutLine:
    first, gains = rows[0], {row["metric"]: row for row in rows if row["low"] is not None}
    names = [row["candidate"] for row in rows if row["metric"] == loss and row["candidate"] != first["candidate"]]
    found = [(name, gains[f"loss_minus_{name}"]) for name in names]
    others = tuple((name, Interval(row["value"], row["low"], row["high"])) for name, row in found)
    return HeldOutLine(events, first["rows"], first["events"], first["value"], others)


CARD = Card({"week": (30, 0)}, _gather, _TEMPLATE)
