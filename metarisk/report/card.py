"""A model card as Markdown and as one HTML page: the same sections, in the same order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metarisk.report.charts import printable
from metarisk.report.render import environment

Row = Mapping[str, str]


@dataclass(frozen=True)
class Section:
    """A heading with sentences, and a table whose columns are the keys of its first row."""

    title: str
    sentences: Sequence[str] = ()
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class ModelCard:
    """What a validator wants to know of one model."""

    title: str
    facts: Row
    sections: Sequence[Section]


def card_html(card: ModelCard) -> str:
    """One self-contained page."""
    return environment().get_template("card.html.j2").render(card=card)


def card_markdown(card: ModelCard) -> str:
    """The card as GitHub-flavoured Markdown."""
    lines = [f"# {_plain(card.title)}", "", *_table([{"": name, " ": value} for name, value in card.facts.items()])]
    for section in card.sections:
        lines += ["", f"## {section.title}", ""]
        lines += [f"{_plain(sentence)}\n" for sentence in section.sentences]
        lines += _table(section.rows)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    head = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    return head + [f"| {' | '.join(_plain(value) for value in row.values())} |" for row in rows]


def _plain(text: str) -> str:
    """What data says, as text that is no Markdown."""
    flat = re.sub(r"\s+", " ", printable(text))
    return re.sub(r"([\\|*_`<>\[\]#])", r"\\\1", flat)
