"""What a page is: a head of its own, and cards, each a file of `metarisk.pages.cards` that says where it stands.

To add a card is to put one file into that folder.
"""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import import_module
from itertools import groupby
from typing import Any, ClassVar, Literal, NamedTuple

from markupsafe import Markup

from metarisk.pages import cards
from metarisk.pages.html import drawn, environment

Kind = Literal["night", "week", "drift", "model"]


class Problem(NamedTuple):
    """One line of what is wrong: `bad` stops something, `watch` wants a look."""

    level: Literal["bad", "watch"]
    text: str


class Tile(NamedTuple):
    """A number at the head of a page."""

    label: str
    value: str
    note: str = ""
    tone: Literal["", "bad", "watch", "text"] = ""


@dataclass(frozen=True)
class Card:
    """One card of one or several pages; its name is that of its file.

    Attributes:
        places: by page, (row, column): cards of one row stand side by side, rows follow each other.
        gather: what it shows, of a published night, of a week or of a model; nothing where that is empty.
        template: Jinja2, given `page` (its head), `values` (what was gathered) and what `show` returns.
        show: of what was gathered, and the page, what else the template is given, pictures for instance; None: nothing
            is shown.
        tiles: its numbers at the head of the page; what was gathered may be missing.
        problems: what of it needs attention.
        always: whether it is there with nothing to show, too, and says so.
    """

    places: Mapping[Kind, tuple[int, int]]
    gather: Callable[[Any], Any]
    template: str
    show: Callable[[Any, Any], Mapping[str, object] | None] = lambda values, page: {}
    tiles: Callable[[Any, Any], Iterable[Tile]] = lambda values, page: ()
    problems: Callable[[Any, Any], Iterable[Problem]] = lambda values, page: ()
    always: bool = False

    def html(self, values: Any, page: Page) -> Markup:
        """The card, or nothing where it has nothing to show."""
        shown = self.show(values, page) if values or self.always else None
        return Markup("") if shown is None else drawn(self.template, page=page, values=values, **shown)


@dataclass(frozen=True)
class Champion:
    """The model that scores: `cut_off` is the last date whose labels it could know."""

    model_id: str
    recipe: str
    cut_off: date
    age_days: int
    max_age_days: int | None = None
    """Oldest that the portfolio allows."""

    @property
    def too_old(self) -> str:
        """Why nights that it scores are amber; empty where it is young enough."""
        if self.max_age_days is None or self.age_days <= self.max_age_days:
            return ""
        return (
            f"the model is {self.age_days} days old, more than max_model_age_days = {self.max_age_days}: run the weekly"
        )


@dataclass(frozen=True, kw_only=True)
class Page:
    """The head that the pages of a run have in common, and what their cards show, by the name of the card."""

    kind: ClassVar[Kind]
    first: ClassVar[str] = ""
    """Card whose problems come before those of others."""

    title: str
    portfolio: str
    as_of: date
    run_id: str
    champion: Champion | None = None
    warnings: Sequence[str] = ()
    next_steps: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    cards: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stopped(self) -> str:
        """Why there is nothing to read but this; empty where there is."""
        return ""

    @property
    def seconds(self) -> float:
        """What the run took."""
        return float(sum(step.seconds for step in self.cards.get("steps", ())))

    @property
    def tiles(self) -> list[Tile]:
        """Numbers of cards."""
        known = cards_of(self.kind).items()
        return [tile for name, card in known for tile in card.tiles(self.cards.get(name), self)]

    @property
    def problems(self) -> list[Problem]:
        """Everything that needs attention."""
        found = [Problem("bad", self.stopped)] if self.stopped else []
        known = sorted(cards_of(self.kind).items(), key=lambda item: item[0] != self.first)
        for name, card in known:
            found += card.problems(self.cards[name], self) if self.cards.get(name) else ()
        return found + [Problem("watch", warning) for warning in self.warnings]

    def html(self) -> str:
        """The page as HTML text."""
        return environment().get_template(f"{self.kind}.html.j2").render(page=self, rows=self._rows())

    def _rows(self) -> list[Markup]:
        """Cards in their order, those of one row side by side."""
        rows = []
        known = cards_of(self.kind).items()
        for _, beside in groupby(known, key=lambda item: item[1].places[self.kind][0]):
            drawings = [card.html(self.cards.get(name), self) for name, card in beside]
            row = Markup("").join(drawings)
            rows.append(Markup('<div class="split">\n{}</div>\n').format(row) if row and len(drawings) > 1 else row)
        return rows


def cards_of(kind: Kind) -> dict[str, Card]:
    """The cards of a page by name, in their order: every file of `metarisk.pages.cards` and its folders is asked."""
    files = (module.name for module in pkgutil.walk_packages(cards.__path__, f"{cards.__name__}.") if not module.ispkg)
    found = [(name.rpartition(".")[2], import_module(name).CARD) for name in files]
    here = sorted((item for item in found if kind in item[1].places), key=lambda item: item[1].places[kind])
    if len(twice := {name for name, count in Counter(name for name, _ in here).items() if count > 1}):
        raise ValueError(f"two cards of the page of a {kind} have one name, rename the file of one: {', '.join(twice)}")
    return dict(here)


def gathered(kind: Kind, subject: object) -> dict[str, Any]:
    """What the cards of a page show of a published night, of a week or of a model."""
    return {name: card.gather(subject) for name, card in cards_of(kind).items()}
