"""The card of a model: its facts, over sections of the cards that say that they stand there, as HTML and Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

from metarisk import registry
from metarisk.charts import printable
from metarisk.domain import ConfigError
from metarisk.job.context import Context
from metarisk.job.storage import from_registry
from metarisk.pages import places
from metarisk.pages.html import write
from metarisk.pages.page import Kind, Page, gathered
from metarisk.pages.subjects import RegisteredModel
from metarisk.record import models as records
from metarisk.record.models import BACKFILL, WEEKLY

_MODES = {
    WEEKLY: WEEKLY,
    BACKFILL: "backfill: trained after its time; proves nothing to later weeks unless the source is bitemporal",
}


@dataclass(frozen=True, kw_only=True)
class ModelCard(Page):
    """What a validator wants to know of one model."""

    kind: ClassVar[Kind] = "model"

    facts: Mapping[str, str]

    def markdown(self) -> str:
        """The card as GitHub-flavoured Markdown: the same sections in the same order."""
        lines = [f"# {_plain(self.title)}", "", *_table([{"": name, " ": value} for name, value in self.facts.items()])]
        for section in self.cards.values():
            lines += ["", f"## {section.title}", ""]
            lines += [f"{_plain(sentence)}\n" for sentence in section.sentences]
            lines += _table(section.rows)
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def write_card(context: Context, model_id: str) -> tuple[Path, Path]:
    """Write `model-ID.md` and `model-ID.html` beside the report pages; a new state of the model is in the next ones.

    Raises:
        ConfigError: the portfolio has no such model.
        ModelError: its files are damaged, or of another version.
    """
    row, portfolio = records.model(context.warehouse, model_id), context.portfolio
    if row is None or row["portfolio"] != portfolio.name:
        raise ConfigError(
            f"there is no model {model_id}",
            portfolio=context.job.portfolio,
            remedy="take the id from the week's report, or from view metarisk.model_current",
        )
    states, evidence = (find(context.warehouse, model_id) for find in (records.states, records.evidence))
    evidence.sort(key=itemgetter("protocol", "candidate", "slice", "metric"))
    model = RegisteredModel(context, row, from_registry(context, model_id, registry.manifest), states, evidence)
    card = ModelCard(
        title=f"Model {model_id} of {portfolio.title or portfolio.name}",
        portfolio=portfolio.name,
        as_of=row["as_of"],
        run_id="",
        facts={
            "model": model_id,
            "portfolio": f"{portfolio.name}: {portfolio.title}" if portfolio.title else portfolio.name,
            "predicts": f"{portfolio.target.name}, {context.spec.unit_of(portfolio)}",
            "recipe": row["recipe"],
            "labels until": str(row["as_of"]),
            "trained": f"{row['created_at']:%Y-%m-%d %H:%M %Z}".strip(),
            "mode": _MODES[row["mode"] or WEEKLY],
            "state": f"{states[-1]['state']}, by {states[-1]['by_whom']}" if states else "unknown",
        },
        cards=gathered("model", model),
    )
    paths = (places.folder(context) / f"model-{model_id}{suffix}" for suffix in (".md", ".html"))
    markdown, html = (write(path, text) for path, text in zip(paths, (card.markdown(), card.html()), strict=True))
    return markdown, html


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return []
    head = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    return head + [f"| {' | '.join(_plain(value) for value in row.values())} |" for row in rows]


def _plain(text: str) -> str:
    """What data says, as text that is no Markdown."""
    flat = re.sub(r"\s+", " ", printable(text))
    return re.sub(r"([\\|*_`<>\[\]#])", r"\\\1", flat)
