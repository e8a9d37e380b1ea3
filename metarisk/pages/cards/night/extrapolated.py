"""Rows unlike any row that has a label, by segment."""

import polars as pl

from metarisk.pages.page import Card
from metarisk.pages.subjects import PublishedNight

_TEMPLATE = """\
<section class="card">
  <h2>Unlike any row that has a label</h2>
  <p class="soft">{{ values | sum(attribute=2) | count }} rows of {{ values | length | count }} {{ "segment" if values | length == 1 else "segments" }} have a category, a number or a gap that no labelled row has: their scores are extrapolated.</p>
  <div class="scroll"><table>
    <thead><tr><th>Segment</th><th class="n">Rows</th><th class="n">Extrapolated</th></tr></thead>
    <tbody>{% for name, rows, outside in values[:10] %}<tr><td><bdi>{{ name | name(60) }}</bdi></td><td class="n">{{ rows | count }}</td><td class="n">{{ outside | count }}</td></tr>{% endfor %}</tbody>
  </table></div>
</section>
"""


def _gather(night: PublishedNight) -> list[tuple[str, int, int]]:
    """Segment, rows, and such rows, the most first; none where nobody asked."""
    marked = night.scores.drop_nulls("extrapolated").group_by("segment")
    counts = marked.agg(pl.len().alias("rows"), pl.col("extrapolated").sum().alias("outside"))
    counts = counts.filter(pl.col("outside") > 0)
    return counts.sort("outside", "segment", descending=[True, False]).collect().rows()


CARD = Card({"night": (60, 0)}, _gather, _TEMPLATE)
