"""Cards register themselves: a file that is put into the folder is on its page, and every page has an order."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarisk.pages import cards
from metarisk.pages.page import Kind, cards_of, gathered
from tests.unit import report_examples as examples

PLANTED = """
from metarisk.pages.page import Card, Problem, Tile

CARD = Card(
    {"night": (%d, 0)},
    lambda night: night.reason,
    "<section class='card'><h2>Planted</h2><p>{{ values }} of {{ page.portfolio }}, {{ more }}</p></section>",
    lambda values, page: {"more": "<b>drawn</b>"},
    lambda values, page: [Tile("planted", values or "nothing")],
    lambda values, page: [Problem("watch", f"Planted: {values}")],
)
"""


@pytest.mark.parametrize(
    ("row", "before", "after"), [(5, "Needs attention", "<h2>Scores"), (95, "Why this", "Steps</h2>")]
)
def test_a_planted_file_is_a_card_of_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int, before: str, after: str
) -> None:
    name = f"planted_{row}"
    (tmp_path / f"{name}.py").write_text(PLANTED % row)
    without = examples.night().html()
    monkeypatch.setattr(cards, "__path__", [*cards.__path__, str(tmp_path)])
    page = examples.changed(examples.night(), **{name: "<i>told</i>"}).html()
    assert page.index(before) < page.index("<h2>Planted</h2>") < page.index(after)
    assert "&lt;i&gt;told&lt;/i&gt; of lending_club, &lt;b&gt;drawn&lt;/b&gt;" in page
    assert '<span class="label">planted</span><span class="value">&lt;i&gt;told&lt;/i&gt;</span>' in page
    assert "Planted: &lt;i&gt;told&lt;/i&gt;" in page
    unfilled = examples.night().html()
    assert "<h2>Planted</h2>" not in unfilled
    assert unfilled.count('class="label"') == without.count('class="label"') + 1
    assert cards_of("night")[name].gather(examples.night(reason="why")) == "why"
    assert name not in cards_of("week")


@pytest.mark.parametrize("kind", ["night", "week", "drift", "model"])
def test_no_two_cards_of_a_page_have_one_place_or_one_name(kind: Kind) -> None:
    found = cards_of(kind)
    places = [card.places[kind] for card in found.values()]
    assert len(places) > 5
    assert places == sorted(set(places))


def test_two_files_of_one_name_on_one_page_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "planted_again"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "grades.py").write_text(PLANTED % 6)
    monkeypatch.setattr(cards, "__path__", [*cards.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="grades"):
        gathered("night", None)
