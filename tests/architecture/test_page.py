"""docs/architecture.md shows the house as it is: every floor and room, every word, every place it names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROOMS = {path.stem for path in (ROOT / "metarisk").iterdir() if path.is_dir() or path.suffix == ".py"} - {
    "__init__",
    "__pycache__",
}
WORDS = """segment cell parent support query level watch blind carried abstained fallback opponent oracle champion owed
    unproven"""


def rows(heading: str) -> list[str]:
    """First cells of the table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| (.*?) \|", section, flags=re.MULTILINE)[1:]


def test_the_diagram_has_the_floors_of_the_contract_in_their_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    diagram = PAGE.split("```mermaid")[1].split("```")[0]
    floors = re.findall(r'f(\d+)\["(.*?)"\]', diagram)
    assert [floor.replace(", ", " | ") for _, floor in floors] == layers
    arrows = re.findall(r"f(\d+)(?:\[.*?\])? --> (?=f(\d+))", diagram)
    assert arrows == [(str(number), str(number + 1)) for number in range(len(layers) - 1)]


def test_every_room_is_explained_and_no_other() -> None:
    named = re.findall(r"`(\w+)`", " ".join(rows("The rooms")))
    assert sorted(named) == sorted(ROOMS)


def test_the_glossary_has_the_words() -> None:
    assert rows("Words") == WORDS.split()


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`((?:metarisk|sql|jobs)/[\w./]+)`", PAGE))))
def test_what_it_names_exists(place: str) -> None:
    assert (ROOT / place).exists() or (ROOT / "metarisk" / place).exists()
